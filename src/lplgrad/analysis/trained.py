"""The rounds that a trial trained. If it stopped at its target accuracy, the later rounds of the workflow only repeat
its last one; they are dropped here, so that nothing else needs to know them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lplgrad.analysis.curves import TRIAL
from lplgrad.rounds.stopping import has_stopped
from lplgrad.study.layout import Layout, Trial


def trained(frame: pd.DataFrame, again: pd.Series[bool]) -> pd.DataFrame:
    """Drop the rows of a frame (columns ``TRIAL`` and round, a row a round) that only repeat a trial's last training.

    Returns:
        The other rows, with a further column repeats: how many rounds repeat this one. It is above 0 only in the round
        in which a trial stopped.
    """
    repeats = again.groupby([frame[name] for name in TRIAL]).transform("sum")
    kept = frame[~again]
    return kept.assign(repeats=repeats.where(kept["round"] == kept.groupby(TRIAL)["round"].transform("max"), 0))


def trained_rounds(layout: Layout, trial: Trial, until: int | None = None) -> int:
    """Count the rounds that a trial trained: all, unless it reached its target accuracy before. With ``until``, count
    only the rounds up to that one, and read nothing of later ones."""
    target, last = layout.target(trial.budget, trial.dataset), until or layout.rounds(trial.budget, trial.dataset)
    if target is None:
        return last
    reached = (
        number for number in range(1, last) if has_stopped(Path(layout.trained(trial, number)) / "metrics.json", target)
    )
    return next(reached, last)
