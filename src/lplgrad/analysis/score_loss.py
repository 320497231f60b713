"""How well the score of every query ranks test examples by their true loss."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from lplgrad import acquisition
from lplgrad.analysis.choices import rank_correlation
from lplgrad.analysis.comparison import summary
from lplgrad.analysis.curves import CELL, TRIAL, until_first_end
from lplgrad.analysis.diagnostics import open_datasets, queries
from lplgrad.analysis.round_files import read_test_scores
from lplgrad.rounds.pool import TEST_EXAMPLES
from lplgrad.study.layout import Layout
from lplgrad.study.settings import StudyFile


def score_loss(file: StudyFile) -> pd.DataFrame:
    """Compute the correlations from ``test_scores.csv`` of every query that bought labels.

    Returns:
        Columns budget, dataset, strategy, seed, round (of the model), labels (bought until then), score (the
        acquisition function), correlation (Spearman's, over test examples; NaN if a single example has no such score).
    """
    layout = Layout(file.study, file.unavailable)
    datasets = open_datasets(layout)
    rows = []
    for trial, number, after in queries(layout, datasets):
        name = file.study.strategies[trial.strategy].acquisition
        correlation = math.nan
        if acquisition.registry.load(name).alone:
            examples = len(datasets[trial.dataset].splits["test"].labels)
            path = Path(layout.round(trial, number)) / "test_scores.csv"
            correlation = rank_correlation(*read_test_scores(path, min(examples, TEST_EXAMPLES)))
        about = [trial.budget, trial.dataset, trial.strategy, trial.seed, number]
        rows.append([*about, int((after.rounds <= number).sum()), name, correlation])
    return pd.DataFrame(rows, columns=[*TRIAL, "round", "labels", "score", "correlation"])


def over_seeds(correlations: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds, up to the first end of a trial in each budget and data set: columns budget, dataset,
    strategy, round, labels, score and those of ``summary``."""
    known = until_first_end(correlations).dropna(subset="correlation")
    return summary(known, [*CELL, "round", "labels", "score"], "correlation")
