"""Stopping before the budget is spent: a trial that has reached its target accuracy buys no more labels.

The rounds that remain are still rounds of the workflow, whose shape does not depend on what is measured; but they train
and query nothing. Their metrics say ``stopped: true``, their labels are those that the trial stopped with, and all else
is the last trained round's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import beside, read_json, write_json

SPENT = ("train_seconds", "test_seconds")


def has_stopped(metrics: Path, target_accuracy: float) -> bool:
    """Whether a trial has reached its target by the round of which these are the metrics.

    Args:
        metrics: ``metrics.json`` of a round.
        target_accuracy: as a fraction.

    Raises:
        UserError: the file is not one.
    """
    values = read_json(metrics)
    try:
        return bool(values["stopped"]) or float(values["accuracy"]) >= target_accuracy
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{metrics}: not the metrics of a round; delete the file and run again") from None


def repeat_round(previous: Path, folder: Path, round_number: int) -> dict[str, Any]:
    """Let a round of a stopped trial be as the one before.

    Args:
        previous: folder of the round before: its checkpoint, test logits, metrics and timing.
        folder: of the round.
        round_number: of the round.

    Returns:
        The metrics of the round. They are not written yet, since they mark a finished round and so must come last.
    """
    timing = read_json(previous / "timing.json")
    metrics = read_json(previous / "metrics.json")
    for name in ("checkpoint.safetensors", "test_logits.npy"):
        with beside(folder / name) as temporary:
            shutil.copyfile(previous / name, temporary)
    write_json(folder / "timing.json", {**timing, **dict.fromkeys(SPENT, 0.0)})
    return {**metrics, "round": round_number, "stopped": True}
