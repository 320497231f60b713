"""How pages and figures write numbers and names. An unknown number is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from lplgrad.study import titles
from lplgrad.study.settings import Study, StudyFile

DASH = "–"
# With more strategies, bands hide the curves, and colours are too similar to tell curves apart by them alone.
MANY = 8


def count(how_many: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{how_many:,} {noun}{'' if how_many == 1 else 's'}"


def number(value: float, digits: int = 2) -> str:
    """With a fixed number of digits and a true minus sign."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """A difference, with its sign."""
    return DASH if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def whole(value: Any) -> str:
    """Without decimals; a text stays as it is."""
    return value if isinstance(value, str) else DASH if math.isnan(value) else f"{round(value):,}".replace("-", "−")


def plus_minus(mean: float, spread: float, digits: int = 2) -> str:
    """Mean ± standard deviation."""
    return number(mean, digits) + ("" if math.isnan(spread) else f" ± {number(spread, digits)}")


def interval(low: float, high: float, digits: int = 2, show: Callable[[float, int], str] = number) -> str:
    """An interval, whose ends ``show`` writes."""
    return DASH if math.isnan(low) else f"[{show(low, digits)}, {show(high, digits)}]"


def p_value(value: float, sign: str = "") -> str:
    """``.012``, or with a sign ``= .012``, with no more digits than are meaningful."""
    if math.isnan(value):
        return DASH
    if value < 0.001:
        return "< .001" if sign else "<.001"
    return sign + ("1" if value > 0.9995 else f"{value:.3f}".lstrip("0"))


def seeds(value: float) -> str:
    """A number of seeds that are needed."""
    return DASH if math.isnan(value) else ">1,000" if value > 1000 else f"{value:,.0f}"


def strategy_title(file: StudyFile, name: str) -> str:
    """The name of a strategy for people."""
    return titles.strategy_title(file.study, name)


def strategy_titles(file: StudyFile, present: Iterable[Any]) -> dict[str, str]:
    """The names for people of those strategies that are present, by their names, in the order of the study."""
    found = set(present)
    return {name: strategy_title(file, name) for name in file.study.run.strategies if name in found}


def in_colour(study: Study) -> list[str]:
    """The strategies that run and that figures show in colour: those of ``highlight``, or all if none of them runs."""
    return [name for name in study.run.strategies if name in study.highlight] or study.run.strategies


def has_numbers(study: Study) -> bool:
    """Return whether figures identify curves by numbers, because there are many or because some are grey."""
    return len(study.run.strategies) > MANY or len(in_colour(study)) < len(study.run.strategies)


def has_bands(study: Study) -> bool:
    """Return whether curves in colour have a band of one standard deviation; otherwise their last points have bars."""
    return len(in_colour(study)) <= MANY


def dataset_title(file: StudyFile, name: str) -> str:
    """The name of a data set for people."""
    return titles.dataset_title(file.study, name)


def panel_title(file: StudyFile, panel: dict[str, str]) -> str:
    """The names of a data set and a budget for people."""
    return f"{dataset_title(file, panel['dataset'])}, {panel['budget']} budget"


def has_target(study: Study) -> bool:
    """Return whether any trial may stop early at a target accuracy."""
    budgets = (study.datasets[name].budgets[budget] for name in study.run.datasets for budget in study.run.budgets)
    return any(budget.target_accuracy is not None for budget in budgets)
