"""``lplgrad query``: score the candidates of a round, choose some, and ask the oracle for their labels."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from lplgrad import acquisition
from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json
from lplgrad.machine.log import say
from lplgrad.machine.timing import Stopwatch, describe, peak_memory_mb
from lplgrad.rounds.files import forget_progress, write_labeled, write_scores, write_test_scores
from lplgrad.rounds.oracle import SimulatedOracle
from lplgrad.rounds.pool import draw_candidates
from lplgrad.rounds.round import Round, open_round, query_size
from lplgrad.rounds.settings import QUERY, write_settings
from lplgrad.study.jobs import QueryJob
from lplgrad.study.validation import Settings, parse


def run(arguments: argparse.Namespace) -> None:
    """Draw candidates, score them, choose and write. The query of a trial that has stopped chooses nothing."""
    with open_round(arguments, QueryJob, "query") as here:
        function = acquisition.registry.load(here.settings.acquisition)
        options = parse(function.options, here.settings.options, "--settings: options")
        if function.modality not in (None, here.data.modality):
            raise UserError(f"{arguments.data}: {here.settings.acquisition} takes {function.modality} data only")
        if function.needs(options) and arguments.checkpoint is None:
            raise UserError(f"--checkpoint: missing: {here.settings.acquisition} scores with a model")
        if function.trains_as_round(options) != (here.settings.training is not None):
            trains = "is missing: the query trains a network with the settings of the round's training"
            idle = "has no effect: the query trains no network with these settings; remove it"
            problem = idle if here.settings.training else trains
            raise UserError(f"--settings: training: {problem} (acquisition: {here.settings.acquisition})")
        if here.stopped or not query_size(here):
            _choose_nothing(here)
        else:
            _choose(here, function, options)
        forget_progress(arguments.checkpoint.parent if arguments.checkpoint else here.folder)


def _choose(here: Round[QueryJob], function: Acquisition, options: Settings) -> None:
    size, subset = query_size(here), here.settings.candidates
    pool, labeled, unavailable = len(here.data.splits["train"].inputs), here.labeled, here.unavailable
    if here.pool and subset != "all" and subset > pool - len(labeled) - len(unavailable):
        subset = "all"
    indices = draw_candidates(pool, labeled, subset, here.seed, here.number, unavailable)
    if len(indices) < size:
        raise UserError(f"query_size: {size} are to be labelled, but only {len(indices)} are left")
    scorer = None
    beside: dict[str, Any] = {}
    if function.needs(options):
        from lplgrad.rounds.needs import Scorer, predictions  # imports torch, which a random query does without

        scorer = Scorer(here, function, options)
    device = None if scorer is None else here.device
    watch = Stopwatch(device)
    candidates = (
        Candidates(indices, here.seed, here.number, size, {}, len(here.data.classes))
        if scorer is None
        else scorer.candidates(indices)
    )
    try:
        choice = acquisition.choice_of(function, candidates, options)
    except FloatingPointError as error:
        raise UserError(
            f"{here.arguments.checkpoint}: {error}; was its training sound, and is no option extreme?"
        ) from None
    timing = {
        "query_seconds": round(watch.seconds() + (0.0 if scorer is None else scorer.earlier_seconds), 4),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        **describe(device),
    }
    if scorer is not None:
        beside = predictions(candidates)
    write_scores(here.folder / "scores.csv", indices, choice, **beside)
    write_json(here.folder / "query_timing.json", timing)
    # After the choice, and not part of its time: how a score ranks test examples is measured, never used for choosing.
    test_scores = () if scorer is None or not function.alone else scorer.test_scores()
    write_test_scores(here.folder / "test_scores.csv", *test_scores)
    write_settings(here, QUERY)
    if here.pool:
        from lplgrad.labeling.asking import ask  # a simulated query does without

        ask(here, indices, choice, beside)
    else:
        chosen = indices[choice.picks]
        answers = SimulatedOracle(here.data).answer(chosen)
        write_labeled(here.folder / "next_labeled.csv", here.labeled.extended(chosen, answers, here.number + 1))
    seconds = timing["query_seconds"]
    say(f"round {here.number}: chose {len(choice.picks)} of {len(indices)} candidates in {seconds:.2f} s")


def _choose_nothing(here: Round[QueryJob]) -> None:
    """Write a query of a trial that has stopped, or that has spent its budget or its pool: no candidates, no scores."""
    nothing = np.empty(0, dtype=np.int64)
    write_scores(here.folder / "scores.csv", nothing, Choice(nothing))
    timing = {"query_seconds": 0.0, "peak_memory_mb": 0.0, **describe(device=None)}
    write_json(here.folder / "query_timing.json", timing)
    write_test_scores(here.folder / "test_scores.csv")
    write_settings(here, QUERY)
    if here.pool:
        from lplgrad.labeling.asking import ask

        ask(here, nothing, Choice(nothing), {})
        say("the budget is spent, or all images are labelled; nothing is queried")
        return
    write_labeled(here.folder / "next_labeled.csv", here.labeled)
    say("the target accuracy is reached; nothing is queried")
