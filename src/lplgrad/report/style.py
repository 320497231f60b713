"""How figures look: the same colour, marker and dash for a strategy everywhere, and the same bytes on every run."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
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
# Toward white (1) or black (0), and how far.
SHADES = [(0.0, 0.0), (1.0, 0.45), (0.0, 0.35)]

# What matplotlib writes of the time and its version, by format.
DATED_BY = {".svg": "Date", ".pdf": "CreationDate", ".png": "Software"}


@dataclass(frozen=True)
class Look:
    """How a strategy's line is drawn."""

    color: str
    marker: str
    dashes: Any


def looks(strategies: list[str]) -> dict[str, Look]:
    """The look of each strategy: the paper's have their own, others take the spare ones in the order given.

    Of up to 36 others no two share both colour and marker, nor both colour and dashes; of up to 216 no two share all.
    """
    others = [name for name in strategies if name not in LOOKS]
    spare = {name: _spare(number) for number, name in enumerate(others)}
    return {name: spare[name] if name in spare else Look(*LOOKS[name]) for name in strategies}


def _spare(number: int) -> Look:
    """After six a hue comes back, lighter or darker, with the marker and the dashes of two others."""
    turn, place = divmod(number, len(SPARE))
    colors, markers, dashes = zip(*SPARE, strict=True)
    size = len(SPARE)
    toward, share = SHADES[turn % len(SHADES)]
    red, green, blue = ((1 - share) * part + share * toward for part in mpl.colors.to_rgb(colors[place]))
    color = mpl.colors.to_hex((red, green, blue)).upper()
    return Look(color, markers[(place + turn) % size], dashes[(place - turn - turn // size) % size])


def band(mean: Any, spread: Any, low: float, high: float) -> tuple[Any, Any]:
    """The ends of a band of ``spread`` around ``mean``, cut off where the quantity that is drawn has its bounds."""
    return (mean - spread).clip(low, high), (mean + spread).clip(low, high)


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


def message(text: str) -> Any:
    """A figure that says why there is nothing to draw."""
    set_up()
    figure, axis = plt.subplots(figsize=(7, 1.2))
    axis.axis("off")
    axis.text(0.5, 0.5, textwrap.fill(text, 80), ha="center", va="center")
    return figure


def note(figure: Any, text: str) -> None:
    """Write what a reader must know of a figure below it; nothing for an empty text."""
    if text:
        width = round(14 * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(text, width), fontsize=8, color="#444444")


def save(figure: Any, paths: list[Path]) -> None:
    """Write a figure in the format that each path's ending names, without a date."""
    for path in paths:
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:], metadata={DATED_BY[path.suffix]: None})
        with replacing(path) as file:
            file.write(content.getvalue())
    plt.close(figure)
