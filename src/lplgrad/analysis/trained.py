"""The rounds that a trial trained. If it stopped at its target accuracy, later rounds only repeat its last one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lplgrad.analysis.curves import TRIAL
from lplgrad.rounds.stopping import has_stopped
from lplgrad.study.layout import Layout, Trial


def trained(frame: pd.DataFrame, again: pd.Series[bool]) -> pd.DataFrame:
    """Drop the rounds (rows, with the columns ``TRIAL`` and round) that only repeat a trial's last training.

    The column repeats is added: how many rounds repeat this one. It is above 0 only where a trial stopped.
    """
    repeats = again.groupby([frame[name] for name in TRIAL]).transform("sum")
    kept = frame[~again]
    return kept.assign(repeats=repeats.where(kept["round"] == kept.groupby(TRIAL)["round"].transform("max"), 0))


def trained_rounds(layout: Layout, trial: Trial, until: int | None = None) -> int:
    """Count the rounds that a trial trained. With ``until``, read and count only the rounds up to that one."""
    budget = layout.budget(trial.budget, trial.dataset)
    target, last = budget.target_accuracy, until or budget.rounds
    for number in range(1, last):
        if target is not None and has_stopped(Path(layout.trained(trial, number)) / "metrics.json", target):
            return number
    return last
