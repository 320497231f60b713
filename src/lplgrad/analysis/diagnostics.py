"""What accuracy does not say, from the files of all rounds: calibration, and what the queries chose."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lplgrad import modalities
from lplgrad.acquisition import Candidates, choice_of, random
from lplgrad.acquisition import registry as acquisitions
from lplgrad.analysis import choices as of_examples
from lplgrad.analysis.choices import Indices, rank_correlation
from lplgrad.analysis.curves import TRIAL
from lplgrad.analysis.round_files import AGAIN, read_array, read_scores
from lplgrad.analysis.trained import trained_rounds
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.rounds.files import check_rounds, read_labeled
from lplgrad.rounds.oracle import pool_labels
from lplgrad.rounds.pool import LabeledSet, draw_candidates
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.settings import StudyFile
from lplgrad.study.validation import NoOptions

Row = dict[str, Any]


def calibration(file: StudyFile) -> pd.DataFrame:
    """Measure calibration on the test examples after every round.

    Returns:
        Columns budget, dataset, strategy, seed, round, labels, calibration_error (0 to 1), negative_log_likelihood
        (nats), confidence (mean), entropy_loss_correlation (Spearman's, of predictive entropy and true loss).
    """
    layout = Layout(file.study, file.unavailable)
    datasets = open_datasets(layout)
    known: dict[str, Row] = {}  # by folder, since strategies of a recipe share round 1
    rows = []
    for trial in layout.trials():
        data = datasets[trial.dataset]
        for number in range(1, trained_rounds(layout, trial) + 1):
            labels, folder = len(labeled_set(layout, trial, number, data)), layout.trained(trial, number)
            if folder not in known:
                known[folder] = _calibration(Path(folder) / "test_logits.npy", data)
            rows.append({**vars(trial), "round": number, "labels": labels, **known[folder]})
    return pd.DataFrame(rows)


def _calibration(path: Path, data: DatasetArrays) -> Row:
    labels = np.asarray(data.splits["test"].labels)
    logits = read_array(path, (len(labels), len(data.classes)))
    losses = of_examples.losses(logits, labels)
    return {
        "calibration_error": of_examples.calibration_error(logits, labels),
        "negative_log_likelihood": float(losses.mean()),
        "confidence": float(np.exp(-of_examples.losses(logits, logits.argmax(axis=1))).mean()),
        "entropy_loss_correlation": rank_correlation(of_examples.entropies(logits), losses),
    }


def choices(file: StudyFile) -> pd.DataFrame:
    """Describe what every query chose.

    Returns:
        Columns budget, dataset, strategy, seed, round (of the query), labels (after the query), balance (of the known
        classes of the chosen examples; NaN without one), balance_labeled (of the whole labelled set), spread (mean
        distance of a chosen example to the nearest other, over that of as many that random labelling takes from the
        same candidates), error_ranking (probability that a misclassified candidate scores above a right one),
        score_entropy_correlation (Spearman's over candidates); the last two NaN if the query used no model.
    """
    layout = Layout(file.study, file.unavailable)
    datasets = open_datasets(layout)
    columns = ["balance", "balance_labeled", "spread", "error_ranking", "score_entropy_correlation"]
    rows = []
    for trial, number, after in queries(layout, datasets):
        data = datasets[trial.dataset]
        scores = scores_of(layout, trial, number, data)
        indices = scores["index"].to_numpy(np.int64)
        taken = indices[scores["pick"].to_numpy() > 0]
        labels, known = pool_labels(data), after.known
        bought = (known.labels[known.rounds > number], known.labels)
        balances = [of_examples.class_balance(part, len(data.classes)) for part in bought]
        values = (*balances, _spread(data, indices, taken, trial.seed, number), *_ranking(scores, labels[indices]))
        rows.append([*vars(trial).values(), number, len(after), *values])
    return pd.DataFrame(rows, columns=[*TRIAL, "round", "labels", *columns])


def _spread(data: DatasetArrays, indices: Indices, taken: Indices, seed: int, number: int) -> float:
    candidates = Candidates(indices=indices, seed=seed, round_number=number, query_size=len(taken), measured={})
    by_chance = indices[np.sort(choice_of(random.ACQUISITION, candidates, NoOptions()).picks)]
    numbers = modalities.registry.load(data.modality).numbers
    parts = [numbers(data.splits["train"].inputs[part]) for part in (taken, by_chance)]
    distance, expected = map(of_examples.nearest_distance, parts)
    return distance / expected if expected > 0 else float("nan")


def _ranking(scores: pd.DataFrame, labels: Indices) -> tuple[float, float]:
    """Error ranking, and correlation of score and entropy; NaN without a prediction or a score."""
    if scores[["predicted_class", "score"]].isna().any(axis=None):
        return float("nan"), float("nan")
    score, wrong = scores["score"].to_numpy(float), scores["predicted_class"].to_numpy() != labels
    return of_examples.error_ranking(score, wrong), rank_correlation(score, scores["entropy"].to_numpy(float))


def overlap(file: StudyFile) -> pd.DataFrame:
    """Compare what two strategies of one seed chose in all their queries so far, until the first of the two stops.

    Returns:
        Columns budget, dataset, strategy, baseline (each pair once, in the order of the study), seed, round, labels
        (after the query), jaccard. The labels of round 1, which are common by construction, do not count.
    """
    layout = Layout(file.study, file.unavailable)
    sets: dict[tuple[str, str, int, int, int], dict[str, Indices]] = {}
    for trial, number, after in queries(layout, open_datasets(layout)):
        key = (trial.budget, trial.dataset, trial.seed, number, len(after))
        sets.setdefault(key, {})[trial.strategy] = after.indices[after.rounds > 1]
    rows = []
    for (budget, dataset, *point), by_strategy in sets.items():
        for one, other in combinations(by_strategy, 2):
            common = of_examples.jaccard(by_strategy[one], by_strategy[other])
            rows.append([budget, dataset, one, other, *point, common])
    columns = ["budget", "dataset", "strategy", "baseline", "seed", "round", "labels", "jaccard"]
    return pd.DataFrame(rows, columns=columns)


def open_datasets(layout: Layout) -> dict[str, DatasetArrays]:
    """The data sets of a study by name."""
    return {name: open_dataset(Path(layout.data(name))) for name in layout.datasets}


def labeled_set(layout: Layout, trial: Trial, number: int, data: DatasetArrays) -> LabeledSet:
    """Read the labels of a round, or of the last round that was trained if the round only repeats it.

    Raise UserError if a round in the file has more or fewer labels than a query buys.
    """
    number = trained_rounds(layout, trial, number)
    path = Path(layout.labels(trial, number))
    labeled = read_labeled(path, len(data.splits["train"].inputs), len(data.classes))
    budget = layout.budget(trial.budget, trial.dataset)
    check_rounds(path, labeled, number, [budget.bought(earlier) for earlier in range(1, number + 1)])
    return labeled


def queries(layout: Layout, datasets: dict[str, DatasetArrays]) -> Iterator[tuple[Trial, int, LabeledSet]]:
    """Every query that bought labels, and the labelled set after it; a trial that has stopped asks nothing more."""
    for trial in layout.trials():
        for number in range(1, trained_rounds(layout, trial)):
            yield trial, number, labeled_set(layout, trial, number + 1, datasets[trial.dataset])


def scores_of(layout: Layout, trial: Trial, number: int, data: DatasetArrays) -> pd.DataFrame:
    """Read the scores of the candidates that a round drew; no rows if the trial had stopped."""
    path, budget = Path(layout.round(trial, number)) / "scores.csv", layout.budget(trial.budget, trial.dataset)
    if number >= trained_rounds(layout, trial):
        return read_scores(path, np.empty(0, dtype=np.int64), 0, ranked=False)
    labeled = labeled_set(layout, trial, number, data)
    candidates = draw_candidates(len(data.splits["train"].inputs), labeled, budget.candidates, trial.seed, number)
    function = acquisitions.load(layout.study.strategies[trial.strategy].acquisition)
    scores = read_scores(path, candidates, budget.query_size, ranked=function.choose is None)
    if not scores["predicted_class"].dropna().between(0, len(data.classes) - 1).all():
        raise UserError(f"{path}: a predicted class is not among the {len(data.classes)} classes; {AGAIN}")
    return scores
