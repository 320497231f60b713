"""The digest of a job's code: behaviour changes it, words do not, and neither does code that the job does not run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lplgrad import code_digest as module
from lplgrad.code_digest import code_digest

JOBS: dict[str, tuple[str, ...]] = {
    "prepare": ("datasets.digits", "preparation"),
    "train": ("commands.train",),
    "query": ("commands.query", "acquisition.entropy"),
    "other query": ("commands.query", "acquisition.coreset"),
    "figure": ("commands.figure",),
    "table": ("commands.table",),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package to edit."""
    copy = tmp_path / "lplgrad"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    module._read.cache_clear()
    yield copy
    module._read.cache_clear()


def changed(package: Path, file: str, edit: Callable[[str], str]) -> set[str]:
    """The jobs whose digest an edit changes."""
    before = {job: code_digest(*modules) for job, modules in JOBS.items()}
    text = (package / file).read_text()
    assert edit(text) != text
    (package / file).write_text(edit(text))
    module._read.cache_clear()
    return {job for job, modules in JOBS.items() if code_digest(*modules) != before[job]}


def add_function(text: str) -> str:
    return text + "\n\ndef more() -> int:\n    return 1\n"


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        ("training.py", {"train"}),
        ("models.py", {"train", "query", "other query"}),
        ("acquisition/entropy.py", {"query", "other query"}),  # coreset's query writes entropies beside its scores
        ("acquisition/coreset.py", {"other query"}),
        ("report/figures.py", {"figure"}),
        ("report/tables.py", {"table", "figure"}),
        ("datasets/digits.py", {"prepare"}),
        ("cli.py", set()),
        ("settings.py", set()),
        ("errors.py", set()),
    ],
)
def test_an_edit_reaches_what_runs_it(package: Path, file: str, jobs: set[str]) -> None:
    assert changed(package, file, add_function) == jobs


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "# a comment\n" + text,
        lambda text: text.replace('"""', '"""In other words: ', 1),
        lambda text: text.replace("\n\n\n", "\n\n\n\n", 1),
        lambda text: text.replace("    return training.learning_rate", "    # why\n    return training.learning_rate"),
    ],
)
def test_words_change_nothing(package: Path, edit: Callable[[str], str]) -> None:
    assert changed(package, "training.py", edit) == set()


def test_a_number_in_the_code_does(package: Path) -> None:
    assert changed(package, "training.py", lambda text: text.replace("pairs == 0", "pairs == 1")) == {"train"}


def test_a_new_acquisition_function_changes_nothing(package: Path) -> None:
    before = {job: code_digest(*modules) for job, modules in JOBS.items()}
    shutil.copy(package / "acquisition" / "entropy.py", package / "acquisition" / "margin.py")
    module._read.cache_clear()
    assert {job: code_digest(*modules) for job, modules in JOBS.items()} == before


def test_imports_within_functions_count_and_unused_ones_can_be_left_out() -> None:
    assert "gradient_norms" in module._read("querying")[1]
    with_norms = code_digest("commands.query", "acquisition.entropy")
    assert code_digest("commands.query", "acquisition.entropy", without={"gradient_norms"}) != with_norms
