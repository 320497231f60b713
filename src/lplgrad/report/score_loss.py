"""How well scores rank test images by their true loss, for the models that were looked into."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.arrays import open_dataset
from lplgrad.artifacts import read_labeled
from lplgrad.errors import UserError
from lplgrad.report.document import Part
from lplgrad.report.tables import dataset_title, strategy_title
from lplgrad.report.wording import DASH, count, interval, plus_minus
from lplgrad.settings import StudyFile
from lplgrad.statistics.choices import SCORES, loss_correlations
from lplgrad.statistics.comparison import summary
from lplgrad.statistics.curves import CELL, CHAIN
from lplgrad.study import Layout


def score_loss(file: StudyFile) -> pd.DataFrame:
    """The correlations, from ``observed.csv`` of every round that ``model_figures`` names, as far as they are there.

    Returns:
        Columns budget, dataset, strategy, seed, round, labels, score (the acquisition function that would give it),
        correlation (Spearman's, over test images). A score that a model does not have has no row.
    """
    layout = Layout(file.study, file.unavailable)
    rows = []
    for chain, numbers in layout.shown_models().items():
        pool = len(open_dataset(Path(layout.data(chain.dataset))).train.labels)
        for number in numbers:
            path = Path(layout.round(chain, number)) / "observed.csv"
            labeled = read_labeled(Path(layout.labels(chain, number)), pool)
            if (
                not path.exists() or labeled.rounds.max() < number
            ):  # a trial that has stopped shows its last model again
                continue
            about = [chain.budget, chain.dataset, chain.strategy, chain.seed, number, len(labeled)]
            rows += [[*about, score, found] for score, found in loss_correlations(_read(path)).items()]
    frame = pd.DataFrame(rows, columns=[*CHAIN, "round", "labels", "score", "correlation"])
    return frame.dropna(subset="correlation")


def over_seeds(correlations: pd.DataFrame) -> pd.DataFrame:
    """Mean and t interval over seeds: columns budget, dataset, strategy, round, labels, score, those of ``summary``."""
    return summary(correlations, [*CELL, "round", "labels", "score"], "correlation")


def parts(summarised: pd.DataFrame, file: StudyFile) -> list[Part]:
    """The page: a table for each budget, data set and strategy."""
    found = [Part(text=(TEXT if len(summarised) else NO_MODELS,))]
    for key, part in summarised.groupby(CELL, sort=False):
        budget, dataset, strategy = map(str, key)
        scores = [name for name in SCORES if name in set(part["score"])]
        cells = {(row["labels"], row["score"]): _cell(row) for row in part.to_dict("records")}
        rows = [
            (f"{labels:,}", *(cells.get((labels, score), DASH) for score in scores))
            for labels in sorted(set(part["labels"]))
        ]
        heading = (
            f"{strategy_title(file, strategy)} on {dataset_title(file, dataset)}, {budget} budget, "
            f"{count(int(part['seeds'].max()), 'seed')}"
        )
        found.append(Part(heading, (), ("labels", *(name.replace("_", " ") for name in scores)), tuple(rows), level=3))
    return found


TEXT = (
    "Spearman's rank correlation over test images of the true loss with what an acquisition function would score, by "
    "the model of the round: 1 would rank the images by their loss, 0 is a guess. It is of the trials whose models "
    "were looked into. With several seeds: mean ± sample standard deviation, and the t interval. What a loss says of "
    "an image's worth to training is another question."
)
NO_MODELS = (
    "No model was looked into: model_figures in the configuration names none. How well the entropy ranks test images "
    "by their loss is drawn in the figures of calibration, for every round."
)


def _cell(row: dict[Any, Any]) -> str:
    bracket = "" if math.isnan(row["low"]) else f"\n{interval(row['low'], row['high'])}"
    return plus_minus(row["mean"], row["std"]) + bracket


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table: {error}") from None
    missing = [name for name in ("loss", *SCORES) if name not in frame]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; delete the file and run again")
    return frame
