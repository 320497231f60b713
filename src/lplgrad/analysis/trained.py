"""The rounds that a trial trained, wherever it stopped at its target accuracy.

The workflow has all rounds of a trial that stopped: the later ones only repeat its last round. This module drops the
repetitions, so nothing else needs to know them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lplgrad.analysis.curves import TRIAL
from lplgrad.rounds.stopping import has_stopped
from lplgrad.study.layout import Layout, Trial


def trained(frame: pd.DataFrame, again: pd.Series[bool]) -> pd.DataFrame:
    """Keep the rounds that were trained.

    Args:
        frame: a row a round, with the columns ``TRIAL`` and round.
        again: whether a row only repeats the last round that its trial trained.

    Returns:
        The other rows, with a further column repeats: how many rounds repeat this one. It is above 0 only in the round
        in which a trial stopped.
    """
    repeats = again.groupby([frame[name] for name in TRIAL]).transform("sum")
    kept = frame[~again]
    return kept.assign(repeats=repeats.where(kept["round"] == kept.groupby(TRIAL)["round"].transform("max"), 0))


def trained_rounds(layout: Layout, trial: Trial, until: int | None = None) -> int:
    """Count the rounds that a trial trained: all, unless it reached its target accuracy before.

    Args:
        layout, trial: of the trial.
        until: count only the rounds up to this one, and read nothing of later ones; None for all.
    """
    target, last = layout.target(trial.budget, trial.dataset), until or layout.rounds(trial.budget, trial.dataset)
    if target is None:
        return last
    reached = (
        number for number in range(1, last) if has_stopped(Path(layout.trained(trial, number)) / "metrics.json", target)
    )
    return next(reached, last)
