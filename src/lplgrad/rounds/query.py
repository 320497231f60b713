"""Score the candidates and choose: write every score, and the labelled set of the next round."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lplgrad.acquisition import Acquisition, Candidates
    from lplgrad.datasets.prepared.arrays import DatasetArrays
    from lplgrad.rounds.needs import Measured, Scorer
    from lplgrad.rounds.pool import Indices, LabeledSet
    from lplgrad.study.settings import QueryJob
    from lplgrad.study.validation import Settings


def run(arguments: argparse.Namespace) -> None:
    """Draw candidates, score them, choose and write; in a round's folder one process at a time."""
    from lplgrad.machine.locks import alone
    from lplgrad.rounds.files import forget_progress

    with alone(arguments.output, "query"):
        _query(arguments)
        forget_progress(arguments.checkpoint.parent if arguments.checkpoint else arguments.output)


def _query(arguments: argparse.Namespace) -> None:
    import numpy as np

    from lplgrad import acquisition
    from lplgrad.acquisition import Candidates
    from lplgrad.datasets.prepared.arrays import open_dataset
    from lplgrad.machine import devices
    from lplgrad.machine.errors import UserError
    from lplgrad.machine.files import write_json
    from lplgrad.machine.log import say
    from lplgrad.rounds.files import read_labeled, write_labeled, write_scores
    from lplgrad.rounds.pool import draw_candidates
    from lplgrad.rounds.round import check_clock, check_positive, check_round, check_seed, say_settings
    from lplgrad.rounds.settings import QUERY, digests, write_settings
    from lplgrad.rounds.stopping import has_stopped
    from lplgrad.study.settings import QueryJob
    from lplgrad.study.validation import parse, parse_settings

    settings = parse_settings(QueryJob, arguments.settings)
    say_settings(settings)
    check_positive("--round", arguments.round)
    check_positive("--jobs-per-gpu", arguments.jobs_per_gpu)
    check_seed(arguments.seed)
    function = acquisition.load(settings.acquisition)
    options = parse(function.options, settings.options, "--settings: options")
    if function.needs and arguments.checkpoint is None:
        raise UserError(f"--checkpoint: missing: {settings.acquisition} asks a model")
    data = open_dataset(arguments.data)
    pool = len(data.train.images)
    labeled, given = read_labeled(arguments.labeled, pool), digests(arguments)
    if arguments.target_accuracy is not None:
        if arguments.metrics is None:
            raise UserError("--metrics: missing: whether the target accuracy was reached stands there")
        if has_stopped(arguments.metrics, arguments.target_accuracy):
            write_settings(arguments, QUERY, settings, None, given)
            _ask_nothing(arguments.output, labeled)
            return
    check_round(arguments.labeled, labeled, arguments.round)
    check_clock([arguments.data / "dataset.json", arguments.labeled, *filter(None, [arguments.checkpoint])])
    indices = draw_candidates(pool, labeled, settings.subset, arguments.seed, arguments.round)
    if len(indices) < settings.query_size:
        raise UserError(f"query_size: {settings.query_size} are to be labelled, but only {len(indices)} are left")

    about: dict[str, Any] = {"seed": arguments.seed, "round_number": arguments.round, "query_size": settings.query_size}
    if function.needs:
        model = _put_in_place(arguments, settings, function, options, data)
        watch = devices.Stopwatch(model.device)
        measured = _measure(arguments, settings, model, data, labeled, indices)
    else:
        model, measured, watch = None, {}, devices.Stopwatch(None)
    candidates = Candidates(indices=indices, **about, **measured)
    scores = acquisition.scores_of(function, candidates, options)
    try:
        chosen = acquisition.select(scores, settings.query_size)
    except FloatingPointError as error:
        raise UserError(f"{arguments.checkpoint}: {error}; was its training sound?") from None
    device = model.device if model is not None else None
    timing = {
        "query_seconds": round(watch.seconds(), 4),
        "peak_memory_mb": round(devices.peak_memory_mb(device), 1),
        **devices.describe(device),
    }

    selected = np.zeros(len(indices), dtype=bool)
    selected[chosen] = True
    write_scores(arguments.output / "scores.csv", indices, scores, selected, **_said(candidates))
    write_json(arguments.output / "query_timing.json", timing)
    _score_test_images(arguments.output / "test_scores.csv", model, data, about)
    write_settings(arguments, QUERY, settings, len(labeled), given)
    write_labeled(arguments.output / "next_labeled.csv", labeled.extended(indices[chosen], arguments.round + 1))
    say(f"round {arguments.round}: chose {len(chosen)} of {len(indices)} candidates in {timing['query_seconds']:.2f} s")


def _score_test_images(path: Path, model: Scorer | None, data: DatasetArrays, about: dict[str, Any]) -> None:
    """After the choice, and not part of its time: how a score ranks test images is measured, never chosen by."""
    import numpy as np

    from lplgrad.machine.log import say
    from lplgrad.rounds.files import write_test_scores
    from lplgrad.rounds.pool import draw_test_images

    if model is None or not model.function.scores_images_alone:
        write_test_scores(path)
        return
    drawn = draw_test_images(len(data.test.images), about["seed"])
    scores, losses = model.score_test_images(data.test, drawn, about)
    write_test_scores(path, drawn, scores, losses)
    broken = np.count_nonzero(~(np.isfinite(scores) & np.isfinite(losses)))
    if broken:  # no reason to end a query whose candidates all had sound scores
        say(f"{broken} of {len(drawn)} test images have a score or a loss that is not finite")


def _ask_nothing(folder: Path, labeled: LabeledSet) -> None:
    """The query of a trial that has reached its target: no candidates, no scores, the same labels."""
    import numpy as np

    from lplgrad.machine import devices
    from lplgrad.machine.files import write_json
    from lplgrad.machine.log import say
    from lplgrad.rounds.files import write_labeled, write_scores, write_test_scores

    nothing = np.empty(0, dtype=np.int64)
    write_scores(folder / "scores.csv", nothing, nothing.astype(np.float32), nothing.astype(bool))
    write_json(
        folder / "query_timing.json", {"query_seconds": 0.0, "peak_memory_mb": 0.0, **devices.describe(device=None)}
    )
    write_test_scores(folder / "test_scores.csv")
    write_labeled(folder / "next_labeled.csv", labeled)
    say("the target accuracy is reached; nothing is asked")


def _put_in_place(
    arguments: argparse.Namespace, settings: QueryJob, function: Acquisition, options: Settings, data: DatasetArrays
) -> Scorer:
    """The round's model on its device."""
    from lplgrad.machine.leases import lease_gpu

    if settings.compute.device != "cpu":
        lease_gpu(arguments.jobs_per_gpu)  # before torch is imported

    from lplgrad.machine import devices
    from lplgrad.machine.errors import UserError
    from lplgrad.rounds import networks
    from lplgrad.rounds.needs import Scorer
    from lplgrad.rounds.transforms import Normalize

    device = devices.set_up(settings.compute)
    checkpoint = networks.load(arguments.checkpoint)
    if "predicted_loss" in function.needs and checkpoint.networks.auxiliary is None:
        raise UserError(f"{arguments.checkpoint}: {settings.acquisition} needs a loss prediction module; it has none")
    checkpoint.check_fits(data.channels, data.classes)
    normalize = Normalize(checkpoint.normalization, device)
    checkpoint.networks.to(device)
    return Scorer(function, options, checkpoint.networks, normalize, device)


def _measure(
    arguments: argparse.Namespace,
    settings: QueryJob,
    model: Scorer,
    data: DatasetArrays,
    labeled: LabeledSet,
    indices: Indices,
) -> Measured:
    """What the acquisition function needs to be given of the candidates."""
    import torch

    from lplgrad.machine.randomness import Purpose, stream
    from lplgrad.rounds.transforms import Augment

    augmenting = stream(arguments.seed, Purpose.QUERY_AUGMENTATION, arguments.round)

    def augmented(images: torch.Tensor) -> torch.Tensor:
        augment = Augment(images, settings.augmentation, augmenting)
        return augment(torch.arange(len(images), device=images.device), augment.draw())

    change = augmented if settings.query_transform == "train" else None
    train = data.train.images
    return model.measure(
        model.batches(train, indices, "candidates", change), model.batches(train, labeled.indices, "labelled", change)
    )


def _said(candidates: Candidates) -> dict[str, Any]:
    """What the model says of each candidate, for the columns beside the score; nothing where no model was asked."""
    if candidates.logits is None:
        return {}
    from lplgrad.acquisition.entropy import entropy

    probabilities = candidates.logits.double().softmax(dim=1)
    return {
        "entropy": entropy(candidates.logits).cpu().numpy(),
        "confidence": probabilities.amax(dim=1).cpu().numpy(),
        "predicted": candidates.logits.argmax(dim=1).cpu().numpy(),
    }
