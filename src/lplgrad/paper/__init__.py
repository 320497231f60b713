"""What the paper reports, as data, to set our own measurements beside. Names are those of config.yaml.

- ``datasets.csv`` is Table I, with the sizes of the splits where the text gives them; as printed, mistakes included.
- ``budgets.csv`` is Table II.
- ``accuracy.csv`` is Table III: test accuracy in percent, mean and standard deviation over 5 trials, high budget.
- ``time.csv`` is Table IV: training and query time; the paper names no unit, so only ratios can be compared.
- ``ablation.csv`` are Tables V (low) and VI (high): accuracy with and without the auxiliary model after a fraction of
  the budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

TRIALS = 5
# Of what Table III prints with one decimal: it can lie this far from what was measured.
ROUNDING = 0.05


def published(table: Literal["datasets", "budgets", "accuracy", "time", "ablation"]) -> pd.DataFrame:
    """One of the paper's tables; columns as in the file."""
    return pd.read_csv(Path(__file__).with_name(f"{table}.csv"))


def spread(printed: float) -> float:
    """What Table III prints behind ±, read as a standard deviation; 0.0 as the largest that rounds to it, since trials
    that never differ are not believable, and would give a test without an error."""
    return max(printed, ROUNDING)
