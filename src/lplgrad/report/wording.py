"""Numbers as a reader is shown them; what is not known is a dash."""

from __future__ import annotations

import math

DASH = "–"


def count(how_many: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{how_many:,} {noun}{'' if how_many == 1 else 's'}"


def number(value: float, digits: int = 2) -> str:
    """With so many digits, and a true minus."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """The same with its sign, for differences."""
    return DASH if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def plus_minus(mean: float, spread: float, digits: int = 2) -> str:
    """Mean ± standard deviation."""
    return number(mean, digits) + ("" if math.isnan(spread) else f" ± {number(spread, digits)}")


def interval(low: float, high: float, digits: int = 2) -> str:
    """An interval."""
    return DASH if math.isnan(low) else f"[{number(low, digits)}, {number(high, digits)}]"


def signed_interval(low: float, high: float, digits: int = 2) -> str:
    """An interval of differences."""
    return DASH if math.isnan(low) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_value(value: float, sign: str = "") -> str:
    """``.012``, or with a sign ``= .012``, and no more digits than mean something."""
    if math.isnan(value):
        return DASH
    if value < 0.001:
        return "< .001" if sign else "<.001"
    return sign + ("1" if value > 0.9995 else f"{value:.3f}".lstrip("0"))


def seeds(value: float) -> str:
    """A number of seeds that are needed."""
    return DASH if math.isnan(value) else ">1,000" if value > 1000 else f"{value:,.0f}"
