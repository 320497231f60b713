"""BAIT, and the greedy design below it, against brute force with explicit matrices.

scikit-activeml 1.0 has no query by Fisher information to compare with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from lplgrad.acquisition import Candidates, Choice, _fisher, choice_of
from lplgrad.acquisition._fisher import Dense, Design, first_highest, greedy
from lplgrad.acquisition.bait import ACQUISITION, Options, binary_rows, bytes_of_full, full_rows
from lplgrad.machine.errors import UserError

Array = npt.NDArray[np.float64]
FORMS = ["binary", "full"]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(
    logits: Tensor, features: Tensor, labeled_logits: Tensor, labeled_features: Tensor, query_size: int
) -> Candidates:
    measured = {
        "logits": logits,
        "features": features,
        "labeled:logits": labeled_logits,
        "labeled:features": labeled_features,
    }
    return Candidates(np.arange(len(logits)) * 3 + 5, 1, 1, query_size, measured)


def random_candidates(
    seed: int = 0, size: int = 40, width: int = 6, classes: int = 3, labeled: int = 12, query_size: int = 5
) -> Candidates:
    return given(
        normal(seed, size, classes) * 2, normal(seed + 100, size, width), normal(seed + 200, labeled, classes) * 2,
        normal(seed + 300, labeled, width), query_size,
    )  # fmt: skip


def choose(candidates: Candidates, **options: Any) -> Choice:
    return choice_of(ACQUISITION, candidates, Options(**options))


def softmax(logits: Tensor) -> Array:
    z = logits.double().numpy()
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def informations(logits: Tensor, features: Tensor, form: str) -> list[Array]:
    """The Fisher information of each example, by its definition."""
    found: list[Array] = []
    for p, h in zip(softmax(logits), features.double().numpy(), strict=True):
        if form == "binary":
            found.append(p.max() * (1 - p.max()) * np.outer(h, h))
        else:
            slopes = [np.kron(e - p, h) for e in np.eye(len(p))]
            found.append(np.sum([q * np.outer(slope, slope) for q, slope in zip(p, slopes, strict=True)], axis=0))
    return found


def brute_force(
    candidates: Candidates, form: str = "binary", regularization: float = 1.0, oversample: int = 2
) -> tuple[list[int], list[int], list[float]]:
    """Those added, those kept, and the objective after each addition."""
    each = informations(candidates["logits"], candidates["features"], form)
    known = informations(candidates["labeled:logits"], candidates["labeled:features"], form)
    target = np.mean(each + known, axis=0)
    b, labeled = candidates.query_size, len(known)

    def objective(chosen: list[int]) -> float:
        matrix = regularization * np.eye(len(target)) + b / (labeled + b) * sum(each[one] for one in chosen)
        if known:
            matrix = matrix + labeled / (labeled + b) * sum(known) / labeled
        return float(np.trace(np.linalg.solve(matrix, target)))

    chosen: list[int] = []
    course = [objective([])]
    for _ in range(min(oversample * b, len(each))):
        found, best = min((objective([*chosen, one]), one) for one in range(len(each)) if one not in chosen)
        chosen.append(best)
        course.append(found)
    added = list(chosen)
    while len(chosen) > b:
        chosen.remove(min((objective([one for one in chosen if one != out]), out) for out in chosen)[1])
    return added, chosen, course


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("labeled", "regularization"), [(12, 1.0), (0, 0.01)])
def test_picks_are_those_of_brute_force(form: str, seed: int, labeled: int, regularization: float) -> None:
    candidates = random_candidates(seed, labeled=labeled)
    added, kept, course = brute_force(candidates, form, regularization)
    choice = choose(candidates, form=form, regularization=regularization)
    assert choice.picks.tolist() == kept
    assert course == sorted(course, reverse=True), "the objective never rises"
    only = choose(replace(candidates, query_size=5), form=form, regularization=regularization, oversample=1)
    assert only.picks.tolist() == added[:5]
    assert choice.scores is not None
    assert choice.scores[added[0]] == pytest.approx(course[0] - course[1], rel=1e-5)
    assert choice.scores.argmax() == added[0]


def test_one_feature_by_hand() -> None:
    """Informations .25, .36 and .0891, a target of .2330, and gains .2330 x / (1 + x). In the full form, informations
    and target are those times [[1, -1], [-1, 1]], which has the eigenvalue 2."""
    p = torch.tensor([0.5, 0.9, 0.99])
    features = torch.tensor([[1.0], [2.0], [3.0]])
    candidates = given(torch.stack([p, 1 - p], dim=1).log(), features, torch.zeros(0, 2), torch.zeros(0, 1), 1)
    choice = choose(candidates)
    assert choice.scores is not None
    assert choice.scores.tolist() == pytest.approx([0.0466, 0.0617, 0.0191], abs=5e-5)
    assert np.argsort(-choice.scores).tolist() == [1, 0, 2]
    assert choose(candidates, oversample=1).picks.tolist() == [1]
    assert choose(replace(candidates, query_size=3)).picks.tolist() == [1, 0, 2]
    full = choose(candidates, form="full").scores
    assert full is not None
    assert full.tolist() == pytest.approx([0.466 * 2 * x / (1 + 2 * x) for x in (0.25, 0.36, 0.0891)], abs=5e-5)


def test_rows_are_square_roots_of_the_information() -> None:
    """Also of the Kronecker product (diag(p) - p p^T) x h h^T, whose trace is (1 - |p|^2) |h|^2."""
    logits, features = normal(1, 7, 3) * 2, normal(2, 7, 4)
    for form, rows in (("binary", binary_rows(logits, features)), ("full", full_rows(logits, features))):
        expected = informations(logits, features, form)
        for position, information in enumerate(expected):
            column = rows.column(position)
            np.testing.assert_allclose((column @ column.T).numpy(), information, atol=1e-14)
        np.testing.assert_allclose(rows.information().numpy(), sum(expected), atol=1e-13)
    for p, h, information in zip(softmax(logits), features.double().numpy(), expected, strict=True):
        np.testing.assert_allclose(information, np.kron(np.diag(p) - np.outer(p, p), np.outer(h, h)), atol=1e-14)
        assert np.trace(information) == pytest.approx((1 - p @ p) * (h @ h))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gap", [1.0, 30.0, 38.0, 100.0, 600.0])
def test_certain_predictions_keep_their_digits(form: str, gap: float) -> None:
    """For two classes, the trace of the information is p (1 - p) h^2 in the binary form, and twice that in the full
    one. From a gap of 37 on, 1 - p is 0 in float64."""
    logits = torch.tensor([[gap, 0.0]])
    rows = (binary_rows if form == "binary" else full_rows)(logits, torch.tensor([[3.0]]))
    expected = 9 * math.exp(-gap) / (1 + math.exp(-gap)) ** 2 * (1 if form == "binary" else 2)
    assert float(rows.information().trace()) == pytest.approx(expected, rel=1e-12, abs=0)


def test_products_with_the_last_layer_are_those_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_fisher", "bait"):
        monkeypatch.setattr(f"lplgrad.acquisition.{module}.ROWS", 3)
    rows = full_rows(normal(1, 7, 3) * 2, normal(2, 7, 4))
    dense = Dense(torch.stack([rows.column(position).T for position in range(7)]))
    half = normal(3, 12, 12).double()
    for matrix in (normal(4, 12, 5).double(), half[:, :1]):
        torch.testing.assert_close(rows.times(matrix), dense.times(matrix))
        torch.testing.assert_close(dense.times(matrix), dense.values @ matrix)
    symmetric = half @ half.T
    torch.testing.assert_close(rows.within(symmetric), dense.within(symmetric))
    torch.testing.assert_close(dense.within(symmetric), dense.values @ symmetric @ dense.values.mT)
    torch.testing.assert_close(rows.information(), dense.information())
    torch.testing.assert_close(rows.at([4, 1]).information(), dense.at([4, 1]).information())
    torch.testing.assert_close(rows.scaled(0.5).column(2), 0.5 * dense.column(2))


@pytest.mark.parametrize("size", [1, 3])
def test_steps_change_what_computing_anew_gives(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one row an example and for several, through many additions and removals."""
    rows, half = Dense(normal(1, 60, size, 8)), normal(2, 8, 8).double()
    target = half @ half.T
    design = Design(rows, 0.1 * torch.eye(8, dtype=torch.float64), target)
    monkeypatch.setattr(_fisher, "REFRESH", 1000)
    for position in range(50):
        design.add(position)
    for position in range(0, 50, 2):
        design.remove(position)
    assert design.members == list(range(1, 50, 2))
    anew = Design(rows, design.prior, target, design.members)
    for name in ("inverse", "own", "shared"):
        torch.testing.assert_close(getattr(design, name), getattr(anew, name), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(design.losses()[1:50:2], anew.losses()[1:50:2], rtol=1e-8, atol=1e-10)


def test_gains_and_losses_are_differences_of_the_trace() -> None:
    rows, half = Dense(normal(1, 9, 2, 5)), normal(2, 5, 5).double()
    prior, target = torch.eye(5, dtype=torch.float64), half @ half.T

    def trace(members: list[int]) -> float:
        return float(torch.linalg.solve(prior + rows.at(members).information(), target).trace())

    design = Design(rows, prior, target, [0, 4])
    for other in (1, 2, 3):
        assert float(design.gains()[other]) == pytest.approx(trace([0, 4]) - trace([0, 4, other]))
    assert float(design.losses()[4]) == pytest.approx(trace([0]) - trace([0, 4]))


@pytest.mark.parametrize("form", FORMS)
def test_computing_anew_in_between_changes_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = random_candidates(query_size=9)
    expected = choose(candidates, form=form)
    monkeypatch.setattr(_fisher, "REFRESH", 4)
    assert choose(candidates, form=form).picks.tolist() == expected.picks.tolist()


def test_the_limits_of_the_prior() -> None:
    """A strong prior orders by x^T F x; a prior that is like the target orders by leverage."""
    rows = Dense(normal(1, 30, 1, 4))
    target = rows.information() / 30
    x = rows.values[:, 0]
    strong = greedy(rows, 1e9 * torch.eye(4, dtype=torch.float64), target, 30, 1).alone
    assert strong.argsort().tolist() == ((x @ target) * x).sum(dim=1).argsort().tolist()
    leverages = ((x @ torch.linalg.inv(target)) * x).sum(dim=1)
    assert greedy(rows, 5 * target, target, 30, 1).alone.argsort().tolist() == leverages.argsort().tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_certain_candidate_has_no_information(form: str) -> None:
    candidates = random_candidates()
    candidates["logits"][7] = torch.tensor([1e4, -1e4, -1e4])
    choice = choose(candidates, form=form)
    assert choice.scores is not None
    assert choice.scores[7] == 0
    assert (np.delete(choice.scores, 7) > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_labelled_duplicate_lowers_the_score(form: str) -> None:
    candidates = random_candidates(labeled=0)
    duplicate = {f"labeled:{need}": candidates[need][:1].repeat(5, 1) for need in ("logits", "features")}
    other = {f"labeled:{need}": candidates[need][1:2].repeat(5, 1) for need in ("logits", "features")}
    scores = [
        choose(replace(candidates, measured={**candidates.measured, **more})).scores for more in (duplicate, other)
    ]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0][0] < scores[1][0]
    assert scores[0][1] > scores[1][1]


@pytest.mark.parametrize("form", FORMS)
def test_rotations_of_features_shifts_of_logits_and_names_of_classes_change_nothing(form: str) -> None:
    candidates = random_candidates(labeled=12)
    rotation = torch.linalg.qr(normal(9, 6, 6).double()).Q
    classes = torch.tensor([2, 0, 1])
    changed = {
        need: value.double() @ rotation if need.endswith("features") else (value + 7.0)[:, classes]
        for need, value in candidates.measured.items()
    }
    one, other = (choose(each, form=form) for each in (candidates, replace(candidates, measured=changed)))
    assert one.picks.tolist() == other.picks.tolist()
    assert one.scores is not None
    assert other.scores is not None
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labeled", [0, 12])
def test_duplicates_and_certain_predictions(form: str, labeled: int) -> None:
    """Every size of a query gives different picks; equal candidates are taken in the order of the pool."""
    candidates = random_candidates(labeled=labeled, size=12)
    same = {
        need: value if need.startswith("labeled:") else value[:1].repeat(12, 1)
        for need, value in candidates.measured.items()
    }
    certain = {**candidates.measured, "logits": 1e4 * torch.nn.functional.one_hot(torch.arange(12) % 3).float() - 5e3}
    for query_size in (0, 1, 5, 12):
        for measured in (same, certain):
            asked = replace(candidates, query_size=query_size, measured=measured)
            moved = np.random.default_rng(0).permutation(12)
            assert sorted(choose(asked, form=form).picks.tolist()) == list(range(query_size))
            turned = {
                need: value if need.startswith("labeled:") else value[torch.from_numpy(moved)]
                for need, value in measured.items()
            }
            again = choose(replace(asked, measured=turned, indices=asked.indices[moved]), form=form)
            assert moved[again.picks].tolist() == choose(asked, form=form).picks.tolist()


def test_a_bias_is_the_weight_of_a_feature_that_is_one() -> None:
    candidates = random_candidates()
    extended = {
        need: torch.cat([value, torch.ones(len(value), 1)], dim=1) if need.endswith("features") else value
        for need, value in candidates.measured.items()
    }
    for form in FORMS:
        one = choose(candidates, form=form, bias=True)
        other = choose(replace(candidates, measured=extended), form=form)
        assert one.picks.tolist() == other.picks.tolist()
        assert one.picks.tolist() != choose(candidates, form=form).picks.tolist()


def test_a_full_form_that_needs_too_much_memory_is_refused() -> None:
    candidates = random_candidates(classes=100, width=512)
    words = "bait: memory_gb: form: full needs 167.8 GB for 100 classes and 512 features, but 8 GB are allowed; write"
    with pytest.raises(UserError, match=words):
        choose(candidates, form="full")
    assert bytes_of_full(52, 3, 6) < 1e6
    with pytest.raises(UserError, match="memory_gb"):
        choose(random_candidates(), form="full", memory_gb=1e-5)


def test_numbers_that_are_not_finite_are_no_choice() -> None:
    candidates = random_candidates()
    candidates["features"][3, 2] = float("nan")
    for form in FORMS:
        with pytest.raises(FloatingPointError):
            choose(candidates, form=form)
    with pytest.raises(FloatingPointError, match="not finite"):
        first_highest(torch.tensor([1.0, float("nan")]))


def test_equal_up_to_rounding_is_equal() -> None:
    assert first_highest(torch.tensor([0.0, 1 - 1e-15, 1.0], dtype=torch.float64)) == 1
    assert first_highest(torch.tensor([-2.0, -1.0, -1 + 1e-15], dtype=torch.float64)) == 1
    assert first_highest(torch.tensor([1 - 1e-9, 1.0], dtype=torch.float64)) == 1
    assert first_highest(torch.zeros(3)) == 0
