"""Studies of every shape, down to one strategy, one round and one seed: what is made of them, and what they lack."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.finished_study import commands, finish, study_of

Made = Callable[..., dict[str, str]]
ONE_ROUND = {"query_size": 4, "labels": 4}
CLASSES = ["zero", "one", "two", "three"]


def shown(page: str) -> str:
    """The words of a page."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Callable[..., tuple[int, str]]) -> Made:
    """Make everything of a finished study: no command fails or warns. The words of its pages, by the pages' names."""
    monkeypatch.chdir(tmp_path)

    def make(values: dict[str, Any], *finished: Any, classes: list[str] = CLASSES) -> dict[str, str]:
        file = finish(values, classes, *finished)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for command in commands(file):
                assert lplgrad(*command) == (0, ""), command
        return {path.stem: shown(path.read_text()) for path in Path("results").rglob("*.html")}

    return make


def with_budgets(values: dict[str, Any], **budgets: dict[str, Any]) -> dict[str, Any]:
    """The study with these budgets, models being looked into with all of them."""
    (dataset,) = values["datasets"].values()
    names = list(budgets)
    return {
        **values,
        "run": {**values["run"], "budgets": names},
        "datasets": {"data": {**dataset, "budgets": budgets}},
        "model_figures": {**values["model_figures"], "budgets": names},
    }


def at_once(strategies: set[str]) -> Callable[[Any, int], float]:
    """Some strategies have an accuracy of 95 % in round 1, the others later."""
    return lambda chain, number: 0.95 if chain.strategy in strategies or number == 3 else 0.5 + 0.1 * number


LARGE = {"query_size": 4, "labels": 12}
TARGET = {**LARGE, "target_accuracy": 0.9}
SHAPES: dict[str, tuple[dict[str, Any], *tuple[Any, ...]]] = {
    "one strategy": (study_of(strategies=["lplgrad"]),),
    "one round": (with_budgets(study_of(), small=ONE_ROUND),),
    "all at their target in round 1": (
        with_budgets(study_of(), small=TARGET),
        at_once({"lplgrad", "entropy", "random"}),
    ),
    "one at its target in round 1": (with_budgets(study_of(), small=TARGET), at_once({"random"})),
    "one of each": (with_budgets(study_of(strategies=["random"], seeds=[1]), small=ONE_ROUND),),
    "one budget of one round": (with_budgets(study_of(seeds=[1]), small=ONE_ROUND, large=LARGE),),
}
SAID = {
    "one strategy": "LPLgrad is the only strategy, so this page compares and tests nothing.",
    "one round": "Nothing is tested here: no strategy shares an area on any seed with it.",
    "all at their target in round 1": "There are no ranks: in no budget and data set could strategies be compared.",
    "one at its target in round 1": "Ranks of the mean area",
    "one of each": "No accuracy to ask for: there are no labels but those of round 1.",
    "one budget of one round": "Refused: the trials have no round in common that a query had a part in.",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_everything_is_made_and_what_is_missing_is_said(name: str, made: Made) -> None:
    pages = made(*SHAPES[name])
    assert SAID[name] in pages["statistics"]
    for page, text in pages.items():
        assert not re.search(r"\b(nan|inf|None)\b", text), page


@pytest.mark.slow
def test_one_seed_and_two_classes(made: Made) -> None:
    pages = made(study_of(seeds=[1]), classes=["no", "yes"])
    assert "Nothing is tested here: a test needs two seeds or more." in pages["statistics"]
