"""The rates that ``lplgrad estimate`` multiplies: of the models of config.yaml, on this machine, in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Figure
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.tools.rates import measure_rates

NAME = "rates"
CONFIG = Path(__file__).parents[1] / "config.yaml"


def run(quick: bool) -> Iterator[Figure]:
    """Seconds an image, a pair of points, a job."""
    repeats = 1 if quick else 5
    found: dict[tuple[str, str], float] = {}
    for precision in ("float32", "bfloat16", *(["tf32"] if torch.cuda.is_available() else [])):
        found |= measure_rates(Layout(read_study([CONFIG], {"compute": {"precision": precision}})), repeats)
    for (setting, case), seconds in found.items():
        yield Figure(NAME, setting, case, "s", repeats, seconds)
