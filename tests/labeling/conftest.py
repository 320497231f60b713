"""A study in which images wait for a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labeling.loop import Call, Loop, photos


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a folder of photos: 5 labelled, 1 test and 10 unlabelled images of 3 classes."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    return tmp_path


@pytest.fixture
def loop(here: Path, lplgrad: Call) -> Loop:
    """A study in which four images wait."""
    loop = Loop(lplgrad)
    loop.begin()
    return loop
