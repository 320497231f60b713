"""Curves of strategies: the same colour, marker and dash for a strategy everywhere, numbers and a legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.text import Text
from matplotlib.transforms import ScaledTranslation
from scipy import optimize

from lplgrad.report.style import TITLE_WIDTH, wrapped
from lplgrad.report.wording import MANY, has_bands, has_numbers, in_colour, strategy_title
from lplgrad.study.settings import StudyFile

# Towards white (1) or black (0), and how far.
SHADES = [(0.0, 0.0), (1.0, 0.45), (0.0, 0.35)]

GREY, GREY_TEXT = "#B0B0B0", "#6E6E6E"  # of strategies that are not highlighted
DARK = "#3C3C3C"  # of lines that belong to no strategy
LONG_TITLE_WIDTH = 44  # letters in a line of a title beside an axis, where a second line would cost much height

# Right of a panel, in points: where the numbers of curves begin and end, and from each bar to the next.
NUMBERS, BARS, NEXT_BAR = 15.0, 27.0, 3.6


@dataclass(frozen=True)
class Look:
    """The look of a strategy's line."""

    color: str
    marker: str
    dashes: Any
    hollow: bool = False  # whether the marker is
    number: int | None = None  # of the strategy, from 1, if a curve and its legend show it
    spread: str = "band"  # shown along a curve, a "bar" beside its last point, or "" for neither


# Okabe and Ito's colours, which the colour-blind can distinguish; markers and dashes distinguish the lines in grey.
LOOKS = {
    "lplgrad": Look("#D55E00", "o", ""),
    "learning_loss": Look("#E69F00", "s", (4, 1.5)),
    "ent_gradnorm": Look("#009E73", "^", (1, 1)),
    "entropy": Look("#0072B2", "D", (4, 1, 1, 1)),
    "coreset": Look("#CC79A7", "P", (6, 2)),
    "random": Look("#3C3C3C", "X", (2, 1.5)),
}
SPARE = [
    Look("#56B4E9", "v", (3, 1, 1, 1, 1, 1)),
    Look("#8C6D31", "<", (5, 1)),
    Look("#7B4173", ">", (1, 2)),
    Look("#637939", "h", (8, 2)),
    Look("#843C39", "p", (2, 2)),
    Look("#5254A3", "*", (6, 1, 2, 1)),
    Look("#E7298A", "o", (4, 1.5), hollow=True),
    Look("#00A0A0", "s", "", hollow=True),
    Look("#76B000", "^", (4, 1, 1, 1), hollow=True),
    Look("#9E4FD0", "D", (1, 1), hollow=True),
    Look("#D7191C", "P", (2, 1.5), hollow=True),
    Look("#0B3C5D", "X", (6, 2), hollow=True),
    Look("#A89200", "v", (5, 1), hollow=True),
    Look("#F4846A", "<", (3, 1, 1, 1, 1, 1), hollow=True),
    Look("#1F6B3F", ">", (8, 2), hollow=True),
    Look("#5A3A00", "h", (1, 2), hollow=True),
    Look("#7F8FD0", "p", (6, 1, 2, 1), hollow=True),
    Look("#B97A7A", "*", (2, 2), hollow=True),
]


def looks_of(file: StudyFile) -> dict[str, Look]:
    """Return how figures of curves show each strategy of a study.

    If there are many, or if some are not highlighted, each has its number in the study. Strategies that are not
    highlighted are grey.
    """
    study, run = file.study, file.study.run.strategies
    spread = "band" if has_bands(study) else "bar"
    numbers = dict(zip(run, range(1, len(run) + 1), strict=True)) if has_numbers(study) else {}
    return {
        name: replace(look, number=numbers.get(name), spread=spread)
        if name in in_colour(study)
        else Look(GREY, "", "", number=numbers[name], spread="")
        for name, look in looks(run).items()
    }


def looks(strategies: list[str]) -> dict[str, Look]:
    """Return the look of each strategy. The paper's have their own; others take the spare ones in the order given.

    No two of the paper's and up to 18 others share their colour or their marker. No two of up to 324 others share both
    colour and marker.
    """
    others = [name for name in strategies if name not in LOOKS]
    spare = {name: _spare(number) for number, name in enumerate(others)}
    return {name: spare.get(name) or LOOKS[name] for name in strategies}


def _spare(number: int) -> Look:
    """After 18 strategies a hue returns, lighter or darker, with the marker and the dashes of two others."""
    size = len(SPARE)
    turn, place = divmod(number, size)
    toward, share = SHADES[turn % len(SHADES)]
    color = _mixed(SPARE[place].color, toward, share)
    dashes = SPARE[(place - turn - turn // size) % size].dashes
    return replace(SPARE[(place + turn) % size], color=color, dashes=dashes)


def _mixed(color: str, toward: float, share: float) -> str:
    """Return a colour mixed with a share of white (1) or black (0)."""
    red, green, blue = ((1 - share) * part + share * toward for part in mpl.colors.to_rgb(color))
    return str(mpl.colors.to_hex((red, green, blue)).upper())


def beside_axis(file: StudyFile, name: str) -> str:
    """Return the title of a strategy for the side of an axis, in lines."""
    many = len(file.study.run.strategies) > MANY
    return wrapped(strategy_title(file, name), LONG_TITLE_WIDTH if many else TITLE_WIDTH)


def colors_of(file: StudyFile) -> dict[str, str]:
    """Return the colours of strategies: grey of those that are not highlighted."""
    shown = in_colour(file.study)
    return {name: look.color if name in shown else GREY for name, look in looks(file.study.run.strategies).items()}


def set_back(file: StudyFile, texts: Iterable[Text], names: Iterable[str]) -> None:
    """Write the titles of strategies that are not highlighted in grey."""
    shown = in_colour(file.study)
    for text, name in zip(texts, names, strict=False):  # an inner panel has no titles
        if name not in shown:
            text.set_color(GREY_TEXT)


def draw_curve(
    axis: Any, look: Look, title: str, x: Any, mean: Any, std: Any, bounds: tuple[float, float], linewidth: float
) -> Any:
    """Draw a curve with its spread of one standard deviation, cut off at the bounds of the quantity; return the line.

    The spread is a band. With many curves, it is a bar for the last point: these bars stand side by side right of the
    panel, in the order of the study.
    """
    if not look.spread:
        (line,) = axis.plot(x, mean, color=look.color, linewidth=0.8, label=title, zorder=1.5)
        return line
    many = look.spread == "bar"
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0 if many else 0.6}
    if look.hollow:
        edge = {"markerfacecolor": "white", "markeredgecolor": look.color, "markeredgewidth": 0.8 if many else 1.0}
    (line,) = axis.plot(
        x, mean, color=look.color, marker=look.marker, markersize=3.8 if many else 5,
        linewidth=0.65 * linewidth if many else linewidth, dashes=look.dashes or (None, None), label=title, **edge,
    )  # fmt: skip
    spread = std.fillna(0)
    ends = (mean - spread).clip(*bounds), (mean + spread).clip(*bounds)
    if not many:
        axis.fill_between(x, *ends, color=look.color, alpha=0.1, linewidth=0)
        return line
    assert look.number is not None
    low, high = (end.iloc[-1] for end in ends)
    axis.update_datalim([(line.get_xdata()[-1], low), (line.get_xdata()[-1], high)])
    place = axis.get_yaxis_transform() + _right(axis, BARS + NEXT_BAR * look.number)
    axis.plot([1, 1], [low, high], color=look.color, linewidth=1, transform=place, clip_on=False, solid_capstyle="butt")
    axis.plot(
        [1], mean.iloc[-1:], color=look.color, marker=look.marker, markersize=3.4, transform=place, clip_on=False,
        linestyle="", **edge,
    )  # fmt: skip
    return line


def _right(axis: Any, points: float) -> ScaledTranslation:
    return ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def beside_panel(appearance: Mapping[str, Look]) -> float:
    """Return the width, in inches, of the numbers and bars right of a panel."""
    if any(look.spread == "bar" for look in appearance.values()):
        return (BARS + NEXT_BAR * (len(appearance) + 1)) / 72
    return BARS / 72 if any(look.number for look in appearance.values()) else 0.0


def high_enough(height: float, appearance: Mapping[str, Look]) -> float:
    """Return the height of a row of panels in inches: the usual one, or more if its curves have too many numbers."""
    return max(height, 0.1 * len(appearance) + 0.6) if any(look.number for look in appearance.values()) else height


def number_ends(figure: Any, drawn: Sequence[tuple[Any, Mapping[str, Any]]], appearance: Mapping[str, Look]) -> None:
    """Write the number of its strategy at the end of each curve, right of the panel, and say below bars what they show.

    Numbers do not overlap. Call this when the figure is complete.

    Args:
        figure: the figure.
        drawn: the panels with their lines, by the names of strategies.
        appearance: the looks of the strategies; those without numbers get none.
    """
    if not any(look.number for look in appearance.values()):
        return
    figure.draw_without_rendering()  # settles the layout
    for axis, lines in drawn:
        ends = {name: (line.get_xdata()[-1], line.get_ydata()[-1]) for name, line in lines.items()}
        heights = {name: (axis.transData - axis.transAxes).transform(end)[1] for name, end in ends.items()}
        names = sorted(heights, key=lambda name: (heights[name], -(appearance[name].number or 0)))
        tall = axis.get_window_extent().height * 72 / figure.dpi
        places = apart([heights[name] for name in names], 7.4 / tall)
        for name, place in zip(names, places, strict=True):
            look = appearance[name]
            axis.annotate(
                str(look.number), ends[name], xytext=(1, place),
                textcoords=axis.transAxes + _right(axis, NUMBERS), va="center", fontsize=6.5,
                color=_mixed(look.color, 0, 0.3) if look.spread else GREY_TEXT, annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.5, "linestyle": (0, (1, 1.5)),
                            "shrinkA": 0.5, "shrinkB": 2, "relpos": (0, 0.5)},
            )  # fmt: skip
        bars = [look.number for name, look in appearance.items() if name in lines and look.spread == "bar"]
        for number in bars:
            if number and (number % 5 == 0 or number == 1):
                below = axis.transAxes + _right(axis, BARS + NEXT_BAR * number)
                axis.text(1, -0.02, str(number), transform=below, ha="center", va="top", fontsize=6, color=GREY_TEXT)
        if bars:
            below = axis.transAxes + _right(axis, BARS + NEXT_BAR)
            axis.text(1, -0.02, "\nlast points ± SD", transform=below, va="top", fontsize=6, color=GREY_TEXT)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Move ascending values in [0, 1] as little as possible (least squares) until neighbours are ``gap`` apart.

    They stay in [0, 1]. If they do not fit, they are spaced evenly.
    """
    if not values:
        return []
    gap = min(gap, 1 / max(len(values) - 1, 1))
    steps = gap * np.arange(len(values))
    moved = optimize.isotonic_regression(values - steps).x
    return [float(value) for value in np.clip(moved, 0, 1 - steps[-1]) + steps]


def legend(
    figure: Any, handles: Mapping[str, Any], titles: Mapping[str, str], place: str, appearance: Mapping[str, Look]
) -> None:
    """Draw a legend beside the axes; handles and titles are given by name. The figure grows if it must."""
    numbers = [appearance[name].number for name in titles]
    shown = [wrapped(title, TITLE_WIDTH) for title in titles.values()]
    shown = [f"{number}  {title}" if number else title for number, title in zip(numbers, shown, strict=True)]
    tall = sum(0.21 + 0.17 * title.count("\n") for title in shown) + 0.4
    longest = max((len(line) for title in shown for line in title.splitlines()), default=0)
    wide, high = figure.get_size_inches()
    # A low figure with many strategies gets a legend of several columns.
    columns = math.ceil(tall / high) if any(numbers) else 1
    wide += 0.07 * max(longest - 18, 0) + (columns - 1) * (0.9 + 0.07 * longest)
    figure.set_size_inches(wide, max(high, tall / columns))
    # Labels are given one by one, because matplotlib by itself leaves out those that begin with an underscore.
    drawn = figure.legend([handles[name] for name in titles], shown, loc=place, handlelength=3.2, ncols=columns)
    for name, text in zip(titles, drawn.get_texts(), strict=True):
        if not appearance[name].spread:
            text.set_color(GREY_TEXT)
