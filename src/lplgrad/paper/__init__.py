"""The paper's numbers, as data, with the names of config.yaml.

- ``datasets.csv`` is Table I, as printed, and the sizes of splits that the text gives.
- ``budgets.csv`` is Table II.
- ``accuracy.csv`` is Table III: test accuracy in percent, mean and standard deviation over 5 trials, high budget.
- ``time.csv`` is Table IV: training and query time; the paper gives no unit, so only ratios can be compared.
- ``ablation.csv`` is Tables V (low) and VI (high): accuracy with and without the auxiliary model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

TRIALS = 5
# How far a number in Table III, printed with one decimal, can be from what was measured.
ROUNDING = 0.05


def published(table: Literal["datasets", "budgets", "accuracy", "time", "ablation"]) -> pd.DataFrame:
    """Read one of the paper's tables; columns as in the file."""
    return pd.read_csv(Path(__file__).with_name(f"{table}.csv"))


def spread(printed: float) -> float:
    """Read the ± of Table III as a standard deviation; 0.0 as the largest that rounds to it, because trials that never
    differ are not believable and would give a test without an error."""
    return max(printed, ROUNDING)
