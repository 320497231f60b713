"""How figures look: the same colour, marker and dash for a strategy everywhere, and the same bytes on every run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns

from lplgrad.files import replacing

mpl.use("Agg")

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes tell the lines apart in grey.
LOOKS = {
    "lplgrad": ("#D55E00", "o", ""),
    "learning_loss": ("#E69F00", "s", (4, 1.5)),
    "ent_gradnorm": ("#009E73", "^", (1, 1)),
    "entropy": ("#0072B2", "D", (4, 1, 1, 1)),
    "coreset": ("#CC79A7", "P", (6, 2)),
    "random": ("#3C3C3C", "X", (2, 1.5)),
}
SPARE = [
    ("#56B4E9", "v", (3, 1, 1, 1, 1, 1)),
    ("#8C6D31", "<", (5, 1)),
    ("#7B4173", ">", (1, 2)),
    ("#637939", "h", (8, 2)),
    ("#843C39", "p", (2, 2)),
    ("#5254A3", "*", (6, 1, 2, 1)),
]


# What matplotlib writes of the time and its version, by format.
DATED_BY = {".svg": "Date", ".pdf": "CreationDate", ".png": "Software"}


@dataclass(frozen=True)
class Look:
    """How a strategy's line is drawn."""

    color: str
    marker: str
    dashes: Any


def looks(strategies: list[str]) -> dict[str, Look]:
    """The look of each strategy: the paper's have their own, others take the spare ones in the order given."""
    others = [name for name in strategies if name not in LOOKS]
    chosen = {**LOOKS, **{name: SPARE[number % len(SPARE)] for number, name in enumerate(others)}}
    return {name: Look(*chosen[name]) for name in strategies}


def set_up() -> None:
    """Set matplotlib up for a figure."""
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans", font_scale=1.1)
    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "grid.color": "#E4E4E4",
            "legend.frameon": False,
            "savefig.dpi": 200,
            "svg.fonttype": "path",
            "svg.hashsalt": "lplgrad",
        }
    )


def save(figure: Any, paths: list[Path]) -> None:
    """Write a figure in the format that each path's ending names, without a date."""
    for path in paths:
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:], metadata={DATED_BY[path.suffix]: None})
        with replacing(path) as file:
            file.write(content.getvalue())
