"""What a strategy chose: contact sheets of images with what the model said of them, and how many of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.report.style import message, note, set_up

COLUMNS = 10


@dataclass(frozen=True)
class Query:
    """A query of a trial.

    Attributes:
        round_number: the round that asked.
        scores: ``scores.csv``: a row a candidate.
    """

    round_number: int
    scores: pd.DataFrame

    def selected(self) -> pd.DataFrame:
        """The candidates that were chosen, highest score first."""
        return self.scores[self.scores["selected"] == 1].sort_values("score", ascending=False, kind="stable")


def contact_sheet(queries: list[Query], data: DatasetArrays) -> Any:
    """A row for each query that chose images: the ten of highest score, and how many of every class were chosen.

    Over an image stands its class, and below it what the model took it for, where it was asked and was wrong.

    Args:
        queries: of the trial; those after its target accuracy was reached chose nothing, and the figure says so.
        data: the data set.
    """
    set_up()
    asked = [query for query in queries if len(query.selected())]
    if not asked:
        return message(
            "No choices to show: no query of this trial bought labels. "
            + (
                f"It reached its target accuracy in round {queries[0].round_number}."
                if queries
                else "It has one round."
            )
        )
    rows = len(asked)
    figure, axes = plt.subplots(
        rows, COLUMNS + 1, figsize=(1.05 * COLUMNS + 3.2, 1.45 * rows + 0.3), squeeze=False,
        width_ratios=[1] * COLUMNS + [2.6],
    )  # fmt: skip
    names = [" ".join(name.split()) for name in data.classes]
    largest, few = 1, len(names) <= 12
    for row, query in zip(axes, asked, strict=True):
        chosen = query.selected()
        for column, axis in enumerate(row[:-1]):
            axis.axis("off")
            if column < len(chosen):
                _thumbnail(axis, chosen.iloc[column], data, names)
        row[0].text(
            -0.35, 0.5, f"round {query.round_number}", transform=row[0].transAxes, rotation=90, va="center", fontsize=8
        )
        counts = np.bincount(data.train.labels[chosen["index"].to_numpy(dtype=np.int64)], minlength=len(data.classes))
        largest = max(largest, int(counts.max(initial=1)))
        # White edges would cover thin bars, and a bar narrower than a pixel would vanish without an edge of its colour.
        look = {"width": 0.8} if few else {"width": 1.0, "edgecolor": "#0072B2", "linewidth": 0.3}
        row[-1].bar(range(len(data.classes)), counts, color="#0072B2", **look)
        row[-1].grid(False, axis="x")
        row[-1].tick_params(labelsize=6)
        row[-1].set_xticks(range(len(data.classes)) if few else [])
        if few:
            row[-1].set_xticklabels([name[:10] for name in names], rotation=90)
        row[-1].set_ylabel("chosen", fontsize=7)
    for axis in axes[:, -1]:
        axis.set_ylim(0, largest * 1.05)
    for axis in axes[:-1, -1]:
        axis.set_xticklabels([])
    if len(asked) < len(queries):
        note(figure, f"The trial reached its target accuracy in round {asked[-1].round_number + 1} and chose no more.")
    return figure


def _thumbnail(axis: Any, candidate: pd.Series[Any], data: DatasetArrays, names: list[str]) -> None:
    index = int(candidate["index"])
    axis.imshow(data.train.images[index].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    label = int(data.train.labels[index])
    said = f"{names[label][:12]}\n{candidate['score']:.3g}"
    predicted = candidate["predicted_class"]
    wrong = not pd.isna(predicted) and int(predicted) != label
    axis.set_title(said, fontsize=6.5, pad=2, linespacing=1.1)
    if wrong:
        took_it_for = names[int(predicted)][:12]
        below = {"transform": axis.transAxes, "ha": "center", "va": "top"}
        axis.text(0.5, -0.04, took_it_for, **below, fontsize=6.5, color="#B23A00")
