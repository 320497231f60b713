"""Stopping before the budget is spent: a trial that has reached its target accuracy labels no more examples.

The remaining rounds are still rounds of the workflow, whose shape does not depend on measurements, but they train and
query nothing. Their metrics contain ``stopped: true``, their labels are those with which the trial stopped, and
everything else is copied from the last trained round.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import beside, read_json, write_json

SPENT = ("train_seconds", "test_seconds")


def has_stopped(metrics: Path, target_accuracy: float) -> bool:
    """Return whether a trial has reached its target accuracy, a fraction, by the round of a ``metrics.json``.

    Raises:
        UserError: the file is not the metrics of a round.
    """
    values = read_json(metrics)
    try:
        return bool(values["stopped"]) or float(values["accuracy"]) >= target_accuracy
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{metrics}: not the metrics of a round; delete the file and run again") from None


def repeat_round(previous: Path, folder: Path, round_number: int) -> dict[str, Any]:
    """Repeat the round of the folder ``previous`` in a round of a stopped trial.

    Returns:
        The metrics of the round. The caller writes them last, because they mark a finished round.
    """
    timing = read_json(previous / "timing.json")
    metrics = read_json(previous / "metrics.json")
    for name in ("checkpoint.safetensors", "test_logits.npy"):
        with beside(folder / name) as temporary:
            shutil.copyfile(previous / name, temporary)
    write_json(folder / "timing.json", {**timing, **dict.fromkeys(SPENT, 0.0)})
    return {**metrics, "round": round_number, "stopped": True}
