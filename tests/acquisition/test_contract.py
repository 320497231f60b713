"""What every acquisition function must do."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lplgrad import acquisition
from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.gradient_norms import GradientNorms
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner
from lplgrad.rounds.needs import measure
from lplgrad.study.settings import BackboneRow
from tests.learners import learner_of, same, state

SIZE, CHOSEN = 40, 7
LABELED, CLASSES = 9, 5
# Needs with logits in their last dimension, of which only the differences between classes have a meaning.
LOGITS = {"logits", "member_logits", "stochastic_logits"}
# How many rows a function takes at a time, and after how many steps it computes anew, are constants of these names.
BLOCKS = {"BLOCK", "CHUNK", "REFRESH", "ROWS", "WATCHED"}


def cases() -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Every function with its default options, and with each other value of each option that has a few values."""
    for name in acquisition.registry.names():
        yield name, (name, {})
        options = acquisition.registry.load(name).options
        for key, field in options.model_fields.items():
            values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            for value in [True, False] if field.annotation is bool else values:
                with suppress(ValidationError):  # a value that needs another option as well
                    options(**{key: value})
                    if value != field.default:
                        yield f"{name} {key}={value}", (name, {key: value})


CASES = dict(cases())
ALL = list(CASES)


def loaded(name: str, **options: Any) -> tuple[Acquisition, Any]:
    """A function of the registry or a case of it, with options."""
    name, given = CASES.get(name, (name, {}))
    function = acquisition.registry.load(name)
    return function, function.options(**given, **options)


class Measurements(dict[str, Any]):
    """Everything that any function may need; an unknown need is an output of a recipe, a number for each example."""

    def __missing__(self, need: str) -> Tensor:
        draw = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(need.encode()).digest()[:4]))
        examples = LABELED if need.startswith("labeled:") else SIZE
        self[need] = torch.randn(examples, generator=draw)
        return self[need]  # type: ignore[no-any-return]


def candidates(name: str = "", seed: int = 1, round_number: int = 3, passes: int = 10) -> Candidates:
    """Candidates of a round with everything that any function may need, and the measures of the named function."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(SIZE, CLASSES, generator=draw) * 3
    measured = Measurements(
        logits=logits,
        features=torch.randn(SIZE, 6, generator=draw),
        gradient_norms=GradientNorms(
            torch.rand(SIZE, generator=draw).double(),
            torch.rand(SIZE, generator=draw).double(),
            logits,
            torch.rand(SIZE, 2, generator=draw).double(),
            ("weight", "bias"),
        ),
        stochastic_logits=torch.randn(SIZE, passes, CLASSES, generator=draw) * 3,
        member_logits=torch.randn(SIZE, 3, CLASSES, generator=draw) * 3,
    )
    measured["labeled:features"] = torch.randn(LABELED, 6, generator=draw)
    measured["labeled:logits"] = torch.randn(LABELED, CLASSES, generator=draw)
    measured["labeled:labels"] = torch.arange(LABELED) % CLASSES
    measured["representation"] = torch.randn(SIZE, 4, generator=draw)
    measured["labeled:representation"] = torch.randn(LABELED, 4, generator=draw)
    measured["side:temperature"] = torch.full((SIZE,), 1.5)
    if name:
        measured.update(copy.deepcopy(own_of(name)))
    indices = np.sort(np.random.default_rng(0).choice(500, SIZE, replace=False))
    return Candidates(indices, seed, round_number, CHOSEN, measured, CLASSES)


def learner() -> Learner:
    """A small learner for vectors, in eval mode."""
    backbone = BackboneRow.model_validate({"name": "mlp", "hidden": [6], "dropout": 0.5})
    found = learner_of(backbone=backbone, shape=(4,), classes=CLASSES)
    for network in found.networks.values():
        network.eval()
    return found


def measured_by(name: str, of: Learner, split: int = SIZE) -> dict[str, Any]:
    """What a function's own measures give for the candidates and the labelled examples, in batches of some size."""
    function, options = loaded(name)
    needs, found = function.needs(options), {}
    for prefix, inputs in (("", candidates()["representation"]), ("labeled:", candidates()["labeled:representation"])):
        wanted = {need.removeprefix(prefix): value for need, value in needs.items() if need.startswith(f"{prefix}own:")}
        if wanted:
            batches = list(inputs.split(split))
            each = measure(function, wanted, of, None, lambda batches=batches: batches, 8, partial(stream, 1))  # type: ignore[misc]
            found.update({f"{prefix}{need}": each[need] for need in wanted})
    return found


@cache
def own_of(name: str) -> dict[str, Any]:
    return measured_by(name, learner())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a quantity, which may consist of several."""
    if isinstance(value, Tensor | np.ndarray):
        yield torch.as_tensor(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)


def scores_of(name: str, given: Candidates, **options: Any) -> np.ndarray[Any, Any]:
    function, checked = loaded(name, **options)
    return acquisition.scores_of(function, given, checked)


def choice_of(name: str, given: Candidates, **options: Any) -> Choice:
    function, checked = loaded(name, **options)
    return acquisition.choice_of(function, given, checked)


def permuted(given: Candidates, order: np.ndarray[Any, Any], needs: Iterable[str]) -> Candidates:
    """The same candidates in another order, or some of them, with what is needed."""
    index = torch.from_numpy(order)

    def moved(value: Any) -> Any:
        if isinstance(value, GradientNorms):
            return GradientNorms(
                value.total[index], value.sum[index], value.output[index], value.tensors[index], value.names
            )
        if isinstance(value, Mapping):
            return {key: moved(each) for key, each in value.items()}
        return value[index]

    measured = {need: given[need] if need.startswith("labeled:") else moved(given[need]) for need in needs}
    return replace(given, indices=given.indices[order], measured=measured)


def needs_of(name: str) -> list[str]:
    function, options = loaded(name)
    return list(function.needs(options))


def of_logits(given: Candidates, change: Callable[[Tensor], Tensor]) -> Candidates:
    """The same candidates with other logits."""
    measured = Measurements(given.measured)
    for need in [need for need in measured if need.removeprefix("labeled:").removeprefix("pool:") in LOGITS]:
        measured[need] = change(measured[need])
    return replace(given, measured=measured)


def check_same(one: Choice, other: Choice) -> None:
    """Two choices with the same picks, and scores that differ by rounding."""
    assert one.picks.tolist() == other.picks.tolist()
    assert (one.scores is None) == (other.scores is None)
    if one.scores is not None and other.scores is not None:
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6, atol=1e-7)


def certain(name: str) -> Candidates:
    """All predictions are certain: logits of 1e4 and -1e4. Then the gradient of the entropy is zero."""

    def sure(logits: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1])
        return 2e4 * hot.to(logits) - 1e4

    given = of_logits(candidates(name), sure)
    norms = given["gradient_norms"]
    zero = torch.zeros(SIZE, dtype=torch.float64)
    none = torch.zeros_like(norms.tensors)
    given.measured["gradient_norms"] = GradientNorms(zero, zero, given["logits"], none, norms.names)  # type: ignore[index]
    return given


def copies(name: str, distinct: int, given: Candidates | None = None) -> Candidates:
    """Candidates that are copies of the first ones."""
    given = candidates(name) if given is None else given
    rows = np.arange(SIZE) % distinct
    return replace(permuted(given, rows, needs_of(name)), indices=given.indices)


def labels_changed(name: str, examples: int, label: int | None = None) -> Candidates:
    """The first labelled examples only, or with one label for all."""
    given = candidates(name)
    measured = Measurements({need: given[need] for need in needs_of(name)})
    for need in [need for need in measured if need.startswith("labeled:")]:
        value = measured[need][:examples]
        measured[need] = torch.full_like(value, label) if label is not None and need == "labeled:labels" else value
    return replace(given, measured=measured)


def without_features(name: str) -> Candidates:
    """All features and representations are zero."""
    given = candidates(name)
    for need in ("features", "representation", "labeled:features", "labeled:representation"):
        given.measured[need] = torch.zeros_like(given[need])  # type: ignore[index]
    return given


KINDS: dict[str, Callable[[str], Candidates]] = {
    "certain": certain,
    "identical": partial(copies, distinct=1),
    "identical and certain": lambda name: copies(name, 1, certain(name)),
    "in pairs": partial(copies, distinct=SIZE // 2),
    "no labelled example": partial(labels_changed, examples=0),
    "one labelled example": partial(labels_changed, examples=1),
    "unknown labels": partial(labels_changed, examples=LABELED, label=-1),
    "no features": without_features,
}


SCORING = [name for name in ALL if loaded(name)[0].score is not None]


@pytest.mark.parametrize("name", ALL)
class TestEveryFunction:
    def test_scores_or_chooses(self, name: str) -> None:
        function, _ = loaded(name)
        assert function.score is not None or function.choose is not None
        assert function.score is not None or not function.alone, "only scores can be of an example alone"

    def test_chooses_as_many_as_asked_and_each_once(self, name: str) -> None:
        chosen = choice_of(name, candidates(name)).picks
        assert len(set(chosen.tolist())) == len(chosen) == CHOSEN
        assert 0 <= chosen.min() <= chosen.max() < SIZE

    def test_scores_of_all_candidates_are_finite_if_there_are_any(self, name: str) -> None:
        scores = choice_of(name, candidates(name)).scores
        assert (scores is not None) or name not in SCORING
        if scores is not None:
            assert scores.shape == (SIZE,)
            assert scores.dtype == np.float32
            assert np.isfinite(scores).all()

    def test_same_question_same_answer(self, name: str) -> None:
        one, other = (choice_of(name, candidates(name)) for _ in range(2))
        assert np.array_equal(one.picks, other.picks)
        assert (one.scores is None and other.scores is None) or np.array_equal(one.scores, other.scores)  # type: ignore[arg-type]

    def test_permuting_candidates_permutes_scores_and_choices(self, name: str) -> None:
        order = np.random.default_rng(3).permutation(SIZE)
        moved, still = (
            choice_of(name, permuted(candidates(name), order, needs_of(name))),
            choice_of(name, candidates(name)),
        )
        assert (moved.scores is None) == (still.scores is None)
        if moved.scores is not None and still.scores is not None:
            np.testing.assert_allclose(moved.scores, still.scores[order], rtol=1e-5)
        assert set(order[moved.picks]) == set(still.picks)

    @pytest.mark.parametrize("size", [0, 1, SIZE])
    def test_none_one_and_all_can_be_chosen(self, name: str, size: int) -> None:
        chosen = choice_of(name, replace(candidates(name), query_size=size)).picks
        assert len(chosen) == len(set(chosen.tolist())) == size

    def test_a_single_candidate_is_chosen(self, name: str) -> None:
        alone = permuted(candidates(name), np.array([5]), needs_of(name))
        assert choice_of(name, replace(alone, query_size=1)).picks.tolist() == [0]
        assert choice_of(name, replace(alone, query_size=0)).picks.tolist() == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_in_degenerate_cases_different_candidates_are_chosen_and_scores_are_finite(
        self, name: str, kind: str
    ) -> None:
        """``choice_of`` raises if a pick is repeated, or a score is not finite."""
        for size in (CHOSEN, SIZE):
            chosen = choice_of(name, replace(KINDS[kind](name), query_size=size)).picks
            assert len(chosen) == size

    @pytest.mark.parametrize("kind", ["identical", "in pairs"])
    def test_the_order_of_candidates_does_not_break_ties(self, name: str, kind: str) -> None:
        given = KINDS[kind](name)
        order = np.random.default_rng(4).permutation(SIZE)
        moved = permuted(given, order, needs_of(name))
        one, other = (choice_of(name, each).picks for each in (given, moved))
        assert set(given.indices[one]) == set(moved.indices[other])

    def test_a_constant_added_to_all_logits_of_an_example_changes_nothing(self, name: str) -> None:
        """The logits are multiples of 1/64 and the constants are whole numbers, so that both are exact in float32."""
        given = candidates(name)
        exact = of_logits(given, lambda logits: (logits * 64).round() / 64)
        draw = torch.Generator().manual_seed(5)
        shifted = of_logits(
            exact, lambda logits: logits + torch.randint(-50, 50, (*logits.shape[:-1], 1), generator=draw)
        )
        check_same(choice_of(name, exact), choice_of(name, shifted))

    def test_another_order_of_classes_changes_nothing(self, name: str) -> None:
        """Of the logits and the labels; a function's own measures are kept."""
        given, order = candidates(name), torch.tensor([3, 0, 4, 1, 2])
        moved = of_logits(given, lambda logits: logits[..., order])
        moved.measured["labeled:labels"] = order.argsort()[given["labeled:labels"]]  # type: ignore[index]
        check_same(choice_of(name, given), choice_of(name, moved))

    def test_the_size_of_blocks_does_not_matter(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = choice_of(name, candidates(name))
        for module in [one for key, one in sys.modules.items() if key.startswith("lplgrad.acquisition.")]:
            for constant in BLOCKS & vars(module).keys():
                monkeypatch.setattr(module, constant, 3)
        check_same(before, choice_of(name, candidates(name)))

    def test_own_measures_leave_the_learner_as_it_was_and_do_not_depend_on_batches(self, name: str) -> None:
        of = learner()
        before = state(of)
        once = measured_by(name, of)
        assert same(state(of), before)
        assert not any(module.training for network in of.networks.values() for module in network.modules())
        parameters = [one for network in of.networks.values() for one in network.parameters()]
        assert all(one.requires_grad and one.grad is None for one in parameters)
        assert all(torch.equal(*pair) for pair in zip(tensors_in(once), tensors_in(own_of(name)), strict=True))
        for one, other in zip(tensors_in(once), tensors_in(measured_by(name, of, split=7)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    def test_looks_at_nothing_but_what_it_declares(self, name: str) -> None:
        given = candidates(name)
        bare = replace(given, measured={need: given[need] for need in needs_of(name)})
        one, other = choice_of(name, bare), choice_of(name, given)
        assert np.array_equal(one.picks, other.picks)
        assert (one.scores is None and other.scores is None) or np.array_equal(one.scores, other.scores)  # type: ignore[arg-type]

    def test_changes_nothing_of_what_is_given(self, name: str) -> None:
        given = candidates(name)
        measured = {need: given[need] for need in needs_of(name)}
        before = copy.deepcopy(measured)
        choice_of(name, replace(given, measured=measured))
        assert measured.keys() == before.keys()
        for one, other in zip(tensors_in(measured), tensors_in(before), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", [name for name in ALL if loaded(name)[0].alone])
def test_a_score_of_an_image_alone_does_not_depend_on_other_candidates_nor_on_the_round(name: str) -> None:
    """So that a test image, which is no candidate, can be scored too."""
    few = np.array([3, 17])
    some = permuted(candidates(name), few, needs_of(name))
    moved = replace(some, indices=few, seed=9, round_number=1, query_size=1)
    np.testing.assert_allclose(scores_of(name, moved), scores_of(name, candidates(name))[few], rtol=1e-6)


def test_neither_random_nor_coreset_scores_an_image_alone() -> None:
    assert not any(loaded(name)[0].alone for name in ("coreset", "random"))
    assert all(loaded(name)[0].alone for name in ("entropy", "gradient_norm", "predicted_loss"))


def test_no_label_of_a_candidate_can_be_read() -> None:
    assert not [field for field in Candidates.__dataclass_fields__ if field in ("labels", "targets", "y")]
    assert not [(name, need) for name in ALL for need in needs_of(name) if need == "labels"]
