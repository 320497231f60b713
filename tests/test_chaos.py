"""A short version of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import campaign


@pytest.mark.slow
def test_a_study_survives_kills_and_ends_the_same(tmp_path: Path) -> None:
    targets = [f"results/tiny/{name}.csv" for name in ("measurements", "timings", "tables/accuracy")]
    losses = campaign(tmp_path, kills=6, epochs=60, seed=3, progress_seconds=0, targets=targets)
    assert losses.kills.total() >= 3, "the study ended before it was disturbed"
    assert losses.different == []
    assert losses.epochs < 60, "with its state written after every epoch no training was done anew"
