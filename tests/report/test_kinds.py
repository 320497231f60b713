"""The kinds of tables and figures that the command line names."""

from __future__ import annotations

import inspect
import re
from argparse import Namespace
from pathlib import Path
from pkgutil import resolve_name

import pytest

from lplgrad.cli import FIGURES, TABLES, TRIAL
from lplgrad.machine.errors import UserError
from lplgrad.report.kinds import inputs_of

KINDS = {**TABLES, **FIGURES}
PACKAGE = Path(__file__).parents[2] / "src" / "lplgrad"


@pytest.mark.parametrize("name", KINDS)
def test_a_function_takes_what_its_kind_needs(name: str) -> None:
    needs = set(KINDS[name].needs)
    expected = {*needs - set(TRIAL), "trial"} if "seed" in needs else needs
    function = resolve_name(f"lplgrad.{KINDS[name].function}")
    assert set(inspect.signature(function).parameters) == {"file", *expected}


def test_all_missing_options_are_named() -> None:
    given = Namespace(kind="cost", kinds=KINDS, measurements=Path("m.csv"), timings=None, budget=None)
    with pytest.raises(UserError, match=r"^cost needs --timings and --budget$"):
        inputs_of(given)


def test_nothing_outside_of_paper_imports_it() -> None:
    imports = re.compile(
        r"^\s*(from lplgrad\.paper|import lplgrad\.paper|from lplgrad import .*\bpaper\b)", re.MULTILINE
    )
    others = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "paper"]
    assert others
    assert [path for path in others if imports.search(path.read_text(encoding="utf-8"))] == []
