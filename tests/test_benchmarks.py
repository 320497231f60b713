"""What the benchmarks do with what they measured; nothing here is timed."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import measure, strategies
from benchmarks import recipes as benchmarks_recipes
from benchmarks.coreset import full_matrix
from benchmarks.gradient_norms import Case, check_norms, exact, one_at_a_time, vmap_grad

from lplgrad import acquisition, recipes
from lplgrad.acquisition import Candidates, Choice
from lplgrad.acquisition.coreset import k_center_greedy
from lplgrad.machine.errors import UserError
from lplgrad.study.validation import NoOptions
from tests.learners import learner_of


def test_ratios_are_taken_round_by_round(tmp_path: Path) -> None:
    """A machine that is ten times as slow in one round changes the seconds and not the ratio."""
    each = {"reference": [1.0, 10.0, 1.0], "case": [2.0, 20.0, 2.0]}
    found = measure.figures("some", "here", each, "ms", "reference")
    assert [(figure.median, figure.ratio, figure.ratio_high) for figure in found] == [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0)]
    report = measure.write(tmp_path, [*found, measure.Figure("some", "there", "memory", "MB", 1, 12.5)])
    assert "| case | 2 (2 to 11) ms | 2 (2 to 2) | 3 |" in report.read_text()
    measure.write(tmp_path, [measure.Figure("other", "here", "memory", "MB", 1, 7.0)])
    rows = list(csv.DictReader(report.with_suffix(".csv").read_text().splitlines()))
    assert [row["median"] for row in rows] == ["7.0", "1.0", "2.0", "12.5"], "what was not measured again stays"
    measure.write(tmp_path, [measure.Figure("some", "here", "memory", "MB", 1, 3.0, threads=7)])
    assert len(report.with_suffix(".csv").read_text().splitlines()) == 6, "nor with other threads"


def test_notes_have_a_column_and_what_was_refused_has_no_figure(tmp_path: Path) -> None:
    """Also in a file that was written before there were notes."""
    report = measure.write(tmp_path, [measure.Figure("some", "here", "memory", "MB", 1, 12.5)])
    rows = list(csv.reader(report.with_suffix(".csv").read_text().splitlines()))
    header = ",".join(rows[0][:-1])
    report.with_suffix(".csv").write_text(f"{header}\n" + ",".join([*rows[1][:-2], "today"]) + "\n")
    found = [
        measure.Figure("other", "here", "slow", "s", 1, 2.0, note="needs: nothing"),
        measure.Figure("other", "here", "large", "s", 1, math.nan, note="refused: too large"),
    ]
    text = measure.write(tmp_path, found).read_text()
    assert "| case | measured | ratio | n | note |\n| --- | --- | --- | --- | --- |" in text
    assert "| slow | 2 s |  | 1 | needs: nothing |\n| large |  |  | 1 | refused: too large |" in text
    assert "| case | measured | ratio | n |\n| --- | --- | --- | --- |\n| memory | 12.5 MB |  | 1 |" in text
    again = measure.write(tmp_path, [measure.Figure("third", "here", "memory", "MB", 1, 7.0)]).read_text()
    assert "| large |  |  | 1 | refused: too large |" in again


@pytest.mark.parametrize("name", acquisition.registry.names())
def test_a_choice_of_every_function_can_be_measured(name: str) -> None:
    """Among as few candidates as possible, from made-up values of all that it needs."""
    function = acquisition.registry.load(name)
    for given in [{}, *strategies.VARIANTS.get(name, [])]:
        options = function.options(**given)
        candidates = strategies.made_up(function, options, strategies.Sizes(60, 9, 7, 8, 4), torch.device("cpu"))
        assert set(candidates.measured) == set(function.needs(options))
        assert len(acquisition.choice_of(function, candidates, options).picks) == 7
        assert strategies.needs_in_words(name, given) != "its module does not say"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("random", "no pass"),
        ("entropy", "one forward pass per candidate"),
        ("coreset", "one forward pass per candidate and labelled example"),
        ("gradient_norm", "one forward and one backward pass per candidate, and about a quarter more for the norms"),
    ],
)
def test_what_needs_cost_is_said_in_words(name: str, words: str) -> None:
    assert strategies.needs_in_words(name, {}) == words


@pytest.mark.parametrize("name", ["bald", "noise_stability", "vaal", "variation_ratio"])
def test_functions_with_costly_needs_say_what_they_cost(name: str) -> None:
    assert "forward pass" in strategies.needs_in_words(name, {})


def test_a_refusal_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(candidates: Candidates, options: NoOptions) -> Choice:
        raise UserError("too large")

    monkeypatch.setattr("lplgrad.acquisition.entropy.ACQUISITION", acquisition.Acquisition(choose=refuse))
    monkeypatch.setattr("lplgrad.machine.devices.set_up", lambda compute: torch.device("cpu"))
    cost = strategies.cost_of("entropy", {}, strategies.QUICK, 1)
    assert (math.isnan(cost.seconds), cost.megabytes, cost.refusal) == (True, None, "too large")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux measures the peak")
def test_the_peak_memory_of_a_choice_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process takes 64 MB more. It has taken and freed more than that earlier, which does not count."""
    block = torch.ones(2**25)
    del block

    def choose(candidates: Candidates, options: NoOptions) -> Choice:
        torch.ones(2**24)
        return Choice(np.arange(candidates.query_size))

    monkeypatch.setattr("lplgrad.acquisition.entropy.ACQUISITION", acquisition.Acquisition(choose=choose))
    monkeypatch.setattr("lplgrad.machine.devices.set_up", lambda compute: torch.device("cpu"))
    cost = strategies.cost_of("entropy", {}, strategies.QUICK, 1)
    assert cost.megabytes == pytest.approx(64, abs=8)


def test_cases_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []
    seconds = measure.interleave({name: lambda name=name: turns.append(name) for name in "ab"}, 9)  # type: ignore[misc]
    rounds = ["".join(turns[first : first + 2]) for first in range(0, 20, 2)]
    assert set(rounds) == {"ab", "ba"}, "in every order"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 9, "b": 9}


def test_cases_whose_norms_differ_are_not_measured() -> None:
    cases: dict[str, tuple[Case, int]] = {
        "one sample at a time, autograd": (lambda images: list(images), 1),
        "floor": (lambda images: None, 1),
        "right": (lambda images: images * 1.001, 1),
    }
    check_norms(cases, torch.ones(3))
    with pytest.raises(RuntimeError, match=r"wrong: its norms differ by up to 0\.01"):
        check_norms({**cases, "wrong": (lambda images: images * 1.01, 1)}, torch.ones(3))


def _sleeps(seconds: float) -> Callable[[], None]:
    return partial(time.sleep, seconds)


def test_a_process_of_its_own_tells_its_own_seconds() -> None:
    """With two threads those on the clock, and what is raised here leaves no process behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with closing(measure.OwnProcess(_sleeps, 0.05)) as other:
            (seconds,) = measure.interleave({"other": other}, 1)["other"]
    finally:
        torch.set_num_threads(threads)
    assert seconds >= 0.05
    assert not other.process.is_alive()


def test_operations_are_counted() -> None:
    weight, images = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(2, 3, 8, 8)
    passing = 2 * 2 * 4 * 3 * 9 * 8 * 8
    assert measure.operations(lambda: torch.nn.functional.conv2d(images, weight, padding=1)) == passing
    assert (
        measure.operations(lambda: torch.nn.functional.conv2d(images, weight, padding=1).sum().backward())
        == 2 * passing
    )


def test_all_ways_give_the_same_norms() -> None:
    model = learner_of(shape=(3, 8, 8), classes=5).model
    images = torch.randn(3, 3, 8, 8)
    expected = torch.stack(one_at_a_time(model.eval())(images)).double()
    for way in (exact(model), vmap_grad(model)):
        assert way(images).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_every_recipe_is_measured_with_the_steps_that_its_name_says() -> None:
    found = benchmarks_recipes.cases(64, 1, torch.device("cpu"))
    assert {name.partition(",")[0] for name in found} == set(recipes.registry.names())
    epochs = {name: case() for name, case in found.items() if name.startswith("verips")}
    given, stepped = (
        epochs["verips, as many pseudo-labels as labels, no verifier"],
        epochs["verips, the same, as many steps as plain"],
    )
    assert isinstance(given, list)
    assert isinstance(stepped, list)
    assert [set(epoch.means) for epoch in [*given, *stepped]] == [{"loss", "pseudo-label loss"}] * 2


def test_the_full_matrix_picks_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    candidates, centers = torch.randn(60, 5, generator=draw), torch.randn(9, 5, generator=draw)
    assert list(full_matrix(candidates, centers, 20)) == k_center_greedy(candidates, centers, 20)[0]
