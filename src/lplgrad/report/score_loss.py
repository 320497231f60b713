"""How well the score of every query ranks test images by their true loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad import acquisition
from lplgrad.analysis.choices import rank_correlation
from lplgrad.analysis.comparison import summary
from lplgrad.analysis.curves import CELL, TRIAL, panels, until_first_end
from lplgrad.analysis.diagnostics import open_datasets, queries
from lplgrad.analysis.round_files import read_test_scores
from lplgrad.report.document import Part
from lplgrad.report.tables import dataset_title, strategy_title
from lplgrad.report.wording import DASH, count, interval, plus_minus
from lplgrad.rounds.pool import TEST_IMAGES
from lplgrad.study.layout import Layout
from lplgrad.study.settings import StudyFile


def score_loss(file: StudyFile) -> pd.DataFrame:
    """The correlations, from ``test_scores.csv`` of every query that bought labels.

    Returns:
        Columns budget, dataset, strategy, seed, round (whose model was asked), labels (that it was trained on), score
        (the acquisition function), correlation (Spearman's, over test images). The last is NaN where the score of an
        image alone means nothing, and where a score or a loss is not finite.
    """
    layout = Layout(file.study, file.unavailable)
    datasets = open_datasets(layout)
    rows = []
    for trial, number, after in queries(layout, datasets):
        name = file.study.strategies[trial.strategy].acquisition
        found = math.nan
        if acquisition.load(name).scores_images_alone:
            images = len(datasets[trial.dataset].test.labels)
            path = Path(layout.round(trial, number)) / "test_scores.csv"
            found = rank_correlation(*read_test_scores(path, min(images, TEST_IMAGES)))
        about = [trial.budget, trial.dataset, trial.strategy, trial.seed, number]
        rows.append([*about, int((after.rounds <= number).sum()), name, found])
    return pd.DataFrame(rows, columns=[*TRIAL, "round", "labels", "score", "correlation"])


def over_seeds(correlations: pd.DataFrame) -> pd.DataFrame:
    """Mean and t interval over seeds, as far as all trials of a budget and data set go: columns budget, dataset,
    strategy, round, labels, score, those of ``summary``."""
    there = until_first_end(correlations).dropna(subset="correlation")
    return summary(there, [*CELL, "round", "labels", "score"], "correlation")


def parts(summarised: pd.DataFrame, file: StudyFile) -> list[Part]:
    """The page: a table for each budget and data set, strategies down, labels across."""
    datasets = open_datasets(Layout(file.study, file.unavailable))
    found = [Part(text=(*TEXT, *(() if len(summarised) else (NO_SCORES,))))]
    for panel, part in panels(summarised):
        labels, seeds = sorted(set(part["labels"])), int(part["seeds"].max())
        cells = {(row["strategy"], row["labels"]): _cell(row, seeds) for row in part.to_dict("records")}
        scores = dict(zip(part["strategy"], part["score"], strict=True))
        rows = [
            (
                f"{strategy_title(file, name)}\n{scores[name].replace('_', ' ')}",
                *(cells.get((name, number), DASH) for number in labels),
            )
            for name in file.study.run.strategies
            if name in scores
        ]
        heading = f"{dataset_title(file, panel['dataset'])}, {panel['budget']} budget, {count(seeds, 'seed')}"
        images = _images(len(datasets[panel["dataset"]].test.labels))
        head = ("strategy and score", *(f"{number:,} labels" for number in labels))
        found.append(Part(heading, (images,), head, tuple(rows)))
    return found


def _images(there: int) -> str:
    if there <= TEST_IMAGES:
        return f"Over all {there:,} test images."
    return f"Over {TEST_IMAGES:,} of the {there:,} test images, drawn anew for every seed."


TEXT = (
    "Spearman's rank correlation, over test images, of what the strategy's acquisition function scores with the true "
    "loss, by the model that the query asked after training on so many labels: 1 would rank the images by their loss, "
    "0 is a guess. The images of a seed are the same in all rounds and for all strategies. With several seeds: mean ± "
    "sample standard deviation, and the t interval, which with few seeds may reach beyond ±1. A table ends where its "
    "first trial does. Where a model is right, a confident prediction has a small loss almost by definition: so the "
    "correlation rises with accuracy, and strategies compare at like accuracy only. How well a score finds the errors "
    "is in the figure of choices. What a loss says of an image's worth to training is another question.",
    "A strategy has a row if its score follows from what the model says of one image. Random labelling asks no model; "
    "what core-set scores is a distance to the labelled and the chosen images, which are training images: for a test "
    "image it means nothing.",
)
NO_SCORES = "This study has no such score: no query bought labels, or none of those that did scores images one by one."


def _cell(row: dict[Any, Any], seeds: int) -> str:
    fewer = "" if row["seeds"] == seeds else f" (of {row['seeds']})"
    bracket = "" if math.isnan(row["low"]) else f"\n{interval(row['low'], row['high'], 3)}"
    return plus_minus(row["mean"], row["std"], 3) + fewer + bracket
