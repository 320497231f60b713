"""Measurements as the statistics need them: found whole, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lplgrad.errors import UserError
from lplgrad.statistics.curves import CHAIN

COLUMNS = ["recipe", "acquisition", "round", "labels", "accuracy", "stopped"]


def check(measurements: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The measurements, if statistics can be computed from them.

    Raises:
        UserError: a column is missing, there is no row, a round stands twice, or an accuracy is not a fraction.
    """
    missing = [name for name in COLUMNS if name not in measurements]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; is it another kind of table?")
    if measurements.empty:
        raise UserError(f"{path}: no measurements in it")
    twice = measurements[measurements.duplicated([*CHAIN, "round"])]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(
            f"{path}: {' '.join(str(row[name]) for name in CHAIN)}, round {row['round']} stands in it twice"
        )
    accuracy = pd.to_numeric(measurements["accuracy"], errors="coerce")
    if (accuracy.isna() != measurements["accuracy"].isna()).any() or not accuracy.dropna().between(0, 1).all():
        raise UserError(f"{path}: accuracy must be a fraction from 0 to 1")
    return measurements
