"""The surrogate against a Gaussian process that is written out with its kernel matrix, and small cases by hand.

scikit-activeml 1.0 has no such query to compare with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad.acquisition import Candidates, Choice, choice_of
from lplgrad.acquisition.entropy import entropy
from lplgrad.acquisition.gp_surrogate import ACQUISITION, Options, Surrogate, inputs_of, ranks, residuals_of

SIZE, LABELED, WIDTH, CLASSES = 30, 8, 4, 3
KERNELS: dict[str, dict[str, Any]] = {"linear": {}, "rbf": {"kernel": "rbf", "random_features": 30}}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_candidates(seed: int = 0, query_size: int = 6, size: int = SIZE, labeled: int = LABELED) -> Candidates:
    measured = {
        "logits": normal(seed, size, CLASSES) * 2,
        "features": normal(seed + 100, size, WIDTH),
        "labeled:logits": normal(seed + 200, labeled, CLASSES) * 2,
        "labeled:features": normal(seed + 300, labeled, WIDTH),
        "labeled:labels": torch.arange(labeled) % CLASSES,
    }
    return Candidates(np.arange(size) * 3 + 5, 1, 1, query_size, measured)


def choose(candidates: Candidates, **options: Any) -> Choice:
    return choice_of(ACQUISITION, candidates, Options(**options))


def surrogate_of(candidates: Candidates, **options: Any) -> tuple[Surrogate, Tensor, Tensor]:
    """The surrogate, psi of the candidates, and of the labelled examples."""
    given = Options(**options)
    inputs, labeled = inputs_of(candidates["features"], candidates["labeled:features"], given, np.random.default_rng(0))
    known = candidates["labeled:labels"] >= 0
    residuals = residuals_of(candidates["labeled:logits"][known], candidates["labeled:labels"][known])
    predictions = candidates["logits"].double().softmax(dim=1)
    return Surrogate(inputs, predictions, labeled, known, residuals, given), inputs, labeled


def on_a_line(values: list[float], noise: float, regularization: float = 1.0) -> Surrogate:
    """A surrogate without labels, whose candidates have a single input each."""
    inputs = torch.tensor(values, dtype=torch.float64)[:, None]
    predictions = torch.full((len(values), 2), 0.5, dtype=torch.float64)
    nothing = inputs[:0], torch.ones(0, dtype=torch.bool), predictions[:0]
    return Surrogate(inputs, predictions, *nothing, Options(noise=noise, regularization=regularization))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_mean_and_variance_are_those_of_the_kernel_matrix(kernel: str) -> None:
    """Of the exact posterior given the labels and, as observations of the predicted class, the picks."""
    candidates = random_candidates()
    noise, regularization = 0.3, 2.0
    surrogate, inputs, labeled = surrogate_of(candidates, noise=noise, regularization=regularization, **KERNELS[kernel])
    p = candidates["logits"].double().softmax(dim=1)
    residuals = residuals_of(candidates["labeled:logits"], candidates["labeled:labels"])
    picks: list[int] = []
    for pick in (3, 17, 4, 0):
        seen = torch.cat([labeled, inputs[picks]])
        answers = torch.nn.functional.one_hot(p[picks].argmax(dim=1), CLASSES) - p[picks]
        kernel_of_seen = seen @ seen.T / regularization + noise * torch.eye(len(seen), dtype=torch.float64)
        cross = inputs @ seen.T / regularization
        weights = torch.linalg.solve(kernel_of_seen, torch.cat([cross.T, torch.cat([residuals, answers])], dim=1))
        expected = inputs @ inputs.T / regularization - cross @ weights[:, :SIZE]
        torch.testing.assert_close(surrogate.variances(), expected.diagonal(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(surrogate.mean, p + cross @ weights[:, SIZE:], rtol=1e-9, atol=1e-12)
        surrogate.learn(pick)
        picks.append(pick)


def test_observations_by_hand() -> None:
    """A variance v becomes s v / (s + v) for noise s, and s v / (s + 2 v) after two observations."""
    surrogate = on_a_line([0.7**0.5, 0.7**0.5, 0.1], noise=0.1)
    assert surrogate.variances().tolist() == pytest.approx([0.7, 0.7, 0.01])
    surrogate.learn(0)
    assert surrogate.variances()[:2].tolist() == pytest.approx([0.0875, 0.0875])
    surrogate.learn(1)
    assert surrogate.variances()[:2].tolist() == pytest.approx([0.7 * 0.1 / 1.5] * 2)
    assert float(surrogate.variances()[0]) == pytest.approx(0.0467, abs=5e-5)


def test_variances_never_increase_and_a_duplicate_has_the_lowest() -> None:
    surrogate, _, _ = surrogate_of(random_candidates())
    before = surrogate.variances()
    for pick in range(6):
        surrogate.learn(pick)
        assert (surrogate.variances() <= before + 1e-15).all()
        before = surrogate.variances()
    isolated = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2, 3]]
    even = torch.full((5, 2), 0.5, dtype=torch.float64)
    apart = Surrogate(isolated, even, isolated[:0], torch.ones(0, dtype=torch.bool), even[:0], Options())
    apart.learn(0)
    assert (apart.variances()[1] < apart.variances()[2:]).all()


def test_the_order_of_two_picks_does_not_matter() -> None:
    found = []
    for picks in ((2, 9), (9, 2)):
        surrogate, _, _ = surrogate_of(random_candidates())
        for pick in picks:
            surrogate.learn(pick)
        found.append(surrogate)
    torch.testing.assert_close(found[0].design.inverse, found[1].design.inverse, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[0].mean, found[1].mean, rtol=1e-12, atol=1e-14)


def test_far_from_labels_the_mean_is_the_prediction() -> None:
    inputs = torch.eye(3, dtype=torch.float64)
    p = normal(0, 3, 2).double().softmax(dim=1)
    labels = torch.tensor([1])
    surrogate = Surrogate(inputs, p, inputs[:1], labels >= 0, residuals_of(normal(1, 1, 2), labels), Options())
    assert torch.equal(surrogate.mean[1:], p[1:])
    assert not torch.allclose(surrogate.mean[0], p[0])


def test_exploration_lowers_the_sum_of_variances_most() -> None:
    """Of candidates and labelled examples, against the exact sums after each possible observation."""
    candidates = random_candidates()
    _, inputs, labeled = surrogate_of(candidates)
    everything = torch.cat([inputs, labeled])

    def total(picks: list[int]) -> float:
        seen = torch.cat([labeled, inputs[picks]])
        precision = torch.eye(inputs.shape[1], dtype=torch.float64) + seen.T @ seen / 0.1
        return float(((everything @ torch.linalg.inv(precision)) * everything).sum())

    picks: list[int] = []
    for _ in range(6):
        picks.append(min((total([*picks, one]), one) for one in range(SIZE) if one not in picks)[1])
    assert choose(candidates, exploration=1.0).picks.tolist() == picks
    surrogate, _, _ = surrogate_of(candidates)
    assert float(surrogate.information()[picks[0]]) == pytest.approx(1 - total(picks[:1]) / total([]))


def test_exploitation_is_the_entropy_of_the_clipped_mean() -> None:
    surrogate = on_a_line([0.0, 0.0, 0.0], noise=0.1)
    surrogate.mean = torch.tensor([[0.5, 0.5], [1.2, -0.2], [0.8, 0.8]], dtype=torch.float64)
    assert surrogate.uncertainty().tolist() == pytest.approx([np.log(2), 0.0, np.log(2)], abs=1e-12)


def test_without_variance_only_exploitation_is_left() -> None:
    candidates = random_candidates(query_size=SIZE)
    choice = choose(candidates, regularization=1e12)
    assert choice.picks.tolist() == entropy(candidates["logits"]).argsort(descending=True).tolist()


def test_one_call_is_as_many_calls_for_one_example() -> None:
    """Whose picks are then labelled with the predicted class. So a small query picks what a large one picks first."""
    candidates = random_candidates()
    expected = choose(candidates)
    assert choose(replace(candidates, query_size=4)).picks.tolist() == expected.picks.tolist()[:4]
    found = []
    for _ in range(6):
        (pick,) = choose(replace(candidates, query_size=1)).picks.tolist()
        found.append(int(candidates.indices[pick]))
        kept = [one for one in range(len(candidates.indices)) if one != pick]
        measured = {}
        for need in ("logits", "features"):
            measured[need] = candidates[need][kept]
            measured[f"labeled:{need}"] = torch.cat([candidates[f"labeled:{need}"], candidates[need][[pick]]])
        answer = candidates["logits"][[pick]].argmax(dim=1)
        measured["labeled:labels"] = torch.cat([candidates["labeled:labels"], answer])
        candidates = replace(candidates, indices=candidates.indices[kept], measured=measured)
    assert found == random_candidates().indices[expected.picks].tolist()


def test_random_features_have_the_kernel_of_the_median_distance() -> None:
    features = normal(0, 20, 5)
    options = Options(kernel="rbf", random_features=40_000)
    inputs, others = inputs_of(features, features[:3] * 7, options, np.random.default_rng(0))
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    distances = torch.cdist(unit, unit)
    width = np.median(torch.pdist(unit).numpy())
    torch.testing.assert_close(inputs @ inputs.T, (-(distances**2) / (2 * width**2)).exp(), rtol=0, atol=0.03)
    torch.testing.assert_close(others, inputs[:3])


def test_ranks_by_hand() -> None:
    left = torch.tensor([True, True, False, True, True, True])
    values = torch.tensor([3.0, 1.0, 2.0, 7.0, 3.0 + 1e-12, 0.0], dtype=torch.float64)
    assert ranks(values, left)[left].tolist() == [0.5, 0.25, 1.0, 0.5, 0.0]
    assert ranks(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.bool)).tolist() == [0, 0, 0]
    with pytest.raises(FloatingPointError, match="not finite"):
        ranks(torch.tensor([1.0, float("nan")]), torch.ones(2, dtype=torch.bool))


def test_examples_of_unknown_class_teach_nothing() -> None:
    candidates = random_candidates()
    unknown = {**candidates.measured, "labeled:labels": torch.full((LABELED,), -1)}
    surrogate, inputs, _ = surrogate_of(replace(candidates, measured=unknown))
    torch.testing.assert_close(surrogate.variances(), inputs.square().sum(dim=1))
    assert torch.equal(surrogate.mean, candidates["logits"].double().softmax(dim=1))
    assert len(choose(replace(candidates, measured=unknown)).picks) == 6


def test_the_order_of_labelled_examples_of_known_and_unknown_class_does_not_matter() -> None:
    """Each class is learned with its own example, also if unknown ones lie in between."""
    candidates = random_candidates()
    labels = torch.tensor([0, -1, 1, -1, -1, 2, 0, -1])
    last = labels.argsort(descending=True, stable=True)
    between = {**candidates.measured, "labeled:labels": labels}
    apart = {need: value[last] if need.startswith("labeled:") else value for need, value in between.items()}
    one, other = (choose(replace(candidates, measured=measured)) for measured in (between, apart))
    assert one.picks.tolist() == other.picks.tolist()
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("labeled", [0, LABELED])
def test_duplicates_and_certain_predictions(kernel: str, labeled: int) -> None:
    """Every size of a query gives different picks; the order of candidates does not matter."""
    candidates = random_candidates(size=12, labeled=labeled)
    same = {
        need: value if need.startswith("labeled:") else value[:1].repeat(12, 1)
        for need, value in candidates.measured.items()
    }
    certain = {**candidates.measured, "logits": 1e4 * torch.nn.functional.one_hot(torch.arange(12) % 3).float() - 5e3}
    empty = {**candidates.measured, "features": torch.zeros(12, WIDTH)}
    for measured in (same, certain, empty):
        for query_size in (0, 1, 5, 12):
            asked = replace(candidates, query_size=query_size, measured=measured)
            picks = choose(asked, **KERNELS[kernel]).picks
            assert len(set(picks.tolist())) == query_size
            moved = np.random.default_rng(0).permutation(12)
            turned = {
                need: value if need.startswith("labeled:") else value[torch.from_numpy(moved)]
                for need, value in measured.items()
            }
            again = choose(replace(asked, measured=turned, indices=asked.indices[moved]), **KERNELS[kernel])
            assert moved[again.picks].tolist() == picks.tolist()
    assert choose(replace(candidates, measured=same, query_size=3), kernel=kernel).picks.tolist() == [0, 1, 2]


def test_rotations_of_features_shifts_of_logits_and_names_of_classes_change_nothing() -> None:
    candidates = random_candidates()
    rotation = torch.linalg.qr(normal(9, WIDTH, WIDTH).double()).Q
    classes = torch.tensor([2, 0, 1])
    changed = {
        need: value.double() @ rotation if need.endswith("features") else (value + 7.0)[:, classes]
        for need, value in candidates.measured.items()
        if need != "labeled:labels"
    }
    changed["labeled:labels"] = classes.argsort()[candidates["labeled:labels"]]
    one, other = choose(candidates), choose(replace(candidates, measured=changed))
    assert one.picks.tolist() == other.picks.tolist()


@pytest.mark.parametrize("need", ["features", "logits", "labeled:features", "labeled:logits"])
def test_numbers_that_are_not_finite_are_no_choice(need: str) -> None:
    candidates = random_candidates()
    candidates[need][3, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="finite"):
        choose(candidates)
