"""A configuration, and how tests change it and read what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lplgrad.machine.errors import UserError
from lplgrad.study.reading import read_study

BASE: dict[str, Any] = {
    "study": "base",
    "title": "A study",
    "run": {"budgets": ["low"], "datasets": ["digits"], "strategies": ["lplgrad", "random"], "seeds": [1, 2]},
    "recipes": {"plain": {"trains": "plain"}, "joint": {"trains": "joint"}},
    "strategies": {
        "lplgrad": {"recipe": "joint", "acquisition": "gradient_norm", "norm": "global"},
        "random": {"recipe": "plain", "acquisition": "random"},
    },
    "datasets": {
        "digits": {
            "source": "digits",
            "training": {"epochs": 60, "milestones": [48]},
            "budgets": {"low": {"query_size": 20, "candidates": 300, "labels": 100}},
        }
    },
}


def write(folder: Path, name: str, values: Any) -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def at(key: str, value: Any) -> dict[str, Any]:
    """An overlay with one value, at a dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def problem(*files: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_study(files)
    message = str(caught.value)
    assert "\n" not in message
    return message
