"""What the benchmarks do with what they measured; nothing here is timed."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from benchmarks import measure
from benchmarks import recipes as benchmarks_recipes
from benchmarks.coreset import full_matrix
from benchmarks.gradient_norms import Case, check_norms, exact, one_at_a_time, vmap_grad

from lplgrad import recipes
from lplgrad.acquisition.coreset import k_center_greedy
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
