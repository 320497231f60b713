"""Proxies of the gradient norm: values worked by hand, exact gradient norms, bounds and saturation."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.acquisition import Candidates, choice_of
from lplgrad.acquisition.entropy import entropy
from lplgrad.acquisition.last_layer import ACQUISITION, Options, Proxy, score
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms

PROXIES = get_args(Proxy)
A, B, C = (0.45, 0.44, 0.11), (0.40, 0.30, 0.30), (0.55, 0.45, 0.0)
OF_SLOPES = ["entropy_gradient", "entropy_gradient_sum", "expected_gradient", "fisher", "predicted_class", "error"]


def logits_of(probabilities: object) -> Tensor:
    """Logits with these probabilities, float64; that of an impossible class is very low."""
    return torch.tensor(probabilities, dtype=torch.float64).log().clamp(min=-1e4)


def given(logits: Tensor, features: Tensor | None = None, labeled: Candidates | None = None) -> Candidates:
    """Candidates. The features are zero unless they are given: with the 1 for the bias, their length is one."""
    features = torch.zeros(len(logits), 2) if features is None else features
    measured = {"logits": logits, "features": features}
    known = {need: value[:0] for need, value in measured.items()} if labeled is None else labeled.measured
    measured |= {f"labeled:{need}": known[need] for need in ("logits", "features")}
    return Candidates(np.arange(len(logits)), 1, 1, 1, measured)


def proxy(name: str, candidates: Candidates, **options: Any) -> list[float]:
    found: list[float] = score(candidates, Options.model_validate({"proxy": name, **options})).tolist()
    return found


def drawn(classes: int = 5, examples: int = 40, labeled: Candidates | None = None) -> Candidates:
    draw = torch.Generator().manual_seed(classes + examples)
    logits, features = torch.randn(examples, classes, generator=draw) * 3, torch.randn(examples, 6, generator=draw)
    return given(logits, features, labeled)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("entropy_gradient", [0.1678, 0.0846, 0.0702]), ("entropy_gradient_sum", [0.1678, 0.0846, 0.0702]),
     ("expected_gradient", [0.7605, 0.8101, 0.7000]), ("fisher", [0.5918**0.5, 0.66**0.5, 0.495**0.5]),
     ("predicted_class", [0.7129, 0.7348, 0.6364]), ("error", [0.7129, 0.7348, 0.6364]), ("feature_norm", [1, 1, 1]),
     ("variance", [0.45 * 0.55, 0.40 * 0.60, 0.55 * 0.45])],
)  # fmt: skip
def test_by_hand(name: str, expected: list[float]) -> None:
    """The gradient of the entropy ranks A before B, those of the loss B before A."""
    assert proxy(name, given(logits_of([A, B, C]))) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.8, 0.824, 0.99])
def test_two_classes(p: float) -> None:
    candidates = given(logits_of([[p, 1 - p]]))
    product = p * (1 - p)
    expected = {
        "entropy_gradient": math.sqrt(2) * product * math.log(p / (1 - p)),
        "expected_gradient": 2 * math.sqrt(2) * product,
        "fisher": math.sqrt(2 * product),
        "predicted_class": math.sqrt(2) * (1 - p),
        "variance": product,
    }
    for name, value in expected.items():
        assert proxy(name, candidates) == pytest.approx([value], rel=1e-9, abs=1e-15)


def test_the_slope_of_the_entropy_has_its_maximum_between_certain_and_uniform() -> None:
    gaps = torch.linspace(0, 20, 20001).double()
    found = torch.tensor(proxy("entropy_gradient", given(torch.stack([gaps, torch.zeros_like(gaps)], dim=1))))
    assert found[0] == 0
    assert found.max().item() == pytest.approx(0.3166, abs=5e-5)
    assert gaps[found.argmax()].item() == pytest.approx(1.5434, abs=1e-3)
    assert proxy("entropy_gradient", given(logits_of([[0.8, 0.2]]))) == pytest.approx([0.3137], abs=5e-5)
    for name in ("expected_gradient", "fisher", "predicted_class"):
        losses = proxy(name, given(torch.stack([gaps, torch.zeros_like(gaps)], dim=1)))
        assert max(losses) == losses[0]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def norms_of_last_layer(found: GradientNorms) -> tuple[Tensor, Tensor]:
    """The gradient norms of its weights and of its bias, shape (B,) each."""
    assert found.names[-2:] == ("2.weight", "2.bias")
    return found.tensors[:, -2], found.tensors[:, -1]


def test_they_are_the_part_of_the_last_layer_in_exact_gradient_norms() -> None:
    """Also the expectations, over the losses of all classes."""
    model = network()
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)).double() * 3
    with torch.no_grad():
        features = model[:2](inputs)
        candidates = given(model(inputs), features)
    with PerSampleGradientNorms(model) as norms:
        weight, bias = norms_of_last_layer(norms(inputs, entropy))

        def squared(label: Tensor) -> Tensor:
            found = norms_of_last_layer(norms(inputs, lambda logits: F.cross_entropy(logits, label, reduction="none")))
            return found[0].square() + found[1].square()

        squares = torch.stack([squared(torch.full((20,), label)) for label in range(3)], dim=1)
        predicted = squared(candidates["logits"].argmax(dim=1))
    probabilities = candidates["logits"].softmax(dim=1)
    expected = {
        "entropy_gradient": (weight.square() + bias.square()).sqrt(),
        "entropy_gradient_sum": weight + bias,
        "expected_gradient": (probabilities * squares.sqrt()).sum(dim=1),
        "fisher": (probabilities * squares).sum(dim=1).sqrt(),
        "predicted_class": predicted.sqrt(),
    }
    for name, value in expected.items():
        assert proxy(name, candidates) == pytest.approx(value.tolist(), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_bounds(classes: int) -> None:
    candidates = drawn(classes)
    found = {name: np.array(proxy(name, candidates)) for name in PROXIES}
    slack = 1 + 1e-12
    assert (found["entropy_gradient"] <= slack * found["entropy_gradient_sum"]).all()
    assert (found["entropy_gradient_sum"] <= slack * math.sqrt(2) * found["entropy_gradient"]).all()
    assert (found["predicted_class"] <= slack * found["expected_gradient"]).all()
    assert (found["expected_gradient"] <= slack * found["fisher"]).all()
    np.testing.assert_allclose(found["error"] * found["feature_norm"], found["predicted_class"])
    of_classes = (candidates["logits"].double().softmax(dim=1)[:, None] - torch.eye(classes)).norm(dim=2)
    np.testing.assert_allclose(found["error"], of_classes.amin(dim=1), rtol=1e-9)
    gini = 1 - candidates["logits"].double().softmax(dim=1).square().sum(dim=1)
    np.testing.assert_allclose((found["fisher"] / found["feature_norm"]) ** 2, gini, rtol=1e-9)


@pytest.mark.parametrize("gap", [1.0, 20.0, 40.0, 80.0])
def test_certain_predictions_keep_their_digits(gap: float) -> None:
    """Against 60 digits of mpmath. In float64, ``1 - p`` is 0 from a gap of 37 on."""
    from mpmath import log, mp, mpf, sqrt

    with mp.workdps(60):
        weights = [mp.exp(mpf(z)) for z in (gap, 0, -1)]
        p = [weight / sum(weights) for weight in weights]
        nats = -sum(q * log(q) for q in p)
        lengths = [sqrt(sum((q - (k == y)) ** 2 for k, q in enumerate(p))) for y in range(3)]
        slope = sqrt(sum((q * (log(q) + nats)) ** 2 for q in p))
        expected = {
            "entropy_gradient": slope, "entropy_gradient_sum": slope, "error": lengths[0],
            "expected_gradient": sum(q * one for q, one in zip(p, lengths, strict=True)),
            "fisher": sqrt(sum(q * (1 - q) for q in p)), "predicted_class": lengths[0], "variance": p[0] * (1 - p[0]),
        }  # fmt: skip
    for name, value in expected.items():
        assert proxy(name, given(torch.tensor([[gap, 0.0, -1.0]]))) == pytest.approx([float(value)], rel=1e-12, abs=0)


@pytest.mark.parametrize("name", PROXIES)
def test_impossible_classes_copies_and_no_labelled_examples_give_numbers(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, -1e4], [1e4, -1e4, -1e4], [0.0, 0.0, 0.0]])
    found = proxy(name, given(logits))
    assert np.isfinite(found).all()
    if name in OF_SLOPES:
        assert found[:3] == [0, 0, 0]
    if name.startswith("entropy_gradient"):
        assert found[3] == 0
    chosen = choice_of(ACQUISITION, given(logits), Options.model_validate({"proxy": name}))
    assert chosen.picks.tolist() == [0 if name.startswith(("entropy", "feature")) else 3]


@pytest.mark.parametrize("name", PROXIES)
def test_neither_constants_of_logits_nor_orders_matter(name: str) -> None:
    candidates = drawn(labeled=drawn(examples=30))
    classes, features = [3, 0, 2, 4, 1], [5, 2, 0, 1, 4, 3]
    turned = {}
    for need, value in candidates.measured.items():
        wide = value.double()
        turned[need] = (
            wide[:, features] if "features" in need else wide[:, classes] + torch.linspace(-9, 9, len(wide))[:, None]
        )
    moved = Candidates(candidates.indices, 1, 1, 1, turned)
    assert proxy(name, moved) == pytest.approx(proxy(name, candidates), rel=1e-9)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
def test_the_variance_is_that_of_an_inverse_written_out(ridge: float) -> None:
    labeled = drawn(examples=30)
    candidates = drawn(labeled=labeled)

    def parts(of: Candidates) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        top = of["logits"].double().softmax(dim=1).amax(dim=1).numpy()
        return top * (1 - top), np.hstack([of["features"].double().numpy(), np.ones((len(of.indices), 1))])

    (weights, known), (own, points) = parts(labeled), parts(candidates)
    mean = sum(weight * np.outer(point, point) for weight, point in zip(weights, known, strict=True)) / 30
    inverse = np.linalg.inv(mean + ridge * np.eye(7))
    expected = [one * point @ inverse @ point for one, point in zip(own, points, strict=True)]
    assert proxy("variance", candidates, ridge=ridge) == pytest.approx(expected, rel=1e-9)


def test_the_limits_of_the_ridge() -> None:
    """A large ridge leaves the uncertainty and the length. A small one gives leverages, whose mean over the labelled
    examples is the number of parameters."""
    labeled = drawn(examples=30)
    candidates = drawn(labeled=labeled)
    top = candidates["logits"].double().softmax(dim=1).amax(dim=1)
    expected = top * (1 - top) * (candidates["features"].double().square().sum(dim=1) + 1)
    assert [1e9 * one for one in proxy("variance", candidates, ridge=1e9)] == pytest.approx(expected.tolist())
    again = given(labeled["logits"], labeled["features"], labeled)
    assert np.mean(proxy("variance", again, ridge=1e-12)) == pytest.approx(7)


def test_labelled_copies_lower_the_variance() -> None:
    candidates = drawn()
    copies = {need: value[:1].repeat(20, 1) for need, value in candidates.measured.items()}
    labeled = Candidates(np.arange(20), 1, 1, 1, copies)
    before = np.array(proxy("variance", candidates))
    after = np.array(proxy("variance", given(candidates["logits"], candidates["features"], labeled)))
    assert (after <= before * (1 + 1e-12)).all()
    assert (after / before).argmin() == 0


def test_a_small_ridge_and_dependent_features_give_numbers() -> None:
    """The mean of the labelled examples has rank one, and rounding gives it negative eigenvalues. Their inverses make
    the variance negative in some of these cases, unless they count as 0."""
    for examples in range(41, 48):
        candidates = drawn(examples=examples)
        for scale in (1e2, 1e5):
            copies = {"logits": candidates["logits"], "features": candidates["features"] * scale}
            copies = {need: value[:1].repeat(20, 1) for need, value in copies.items()}
            labeled = Candidates(np.arange(20), 1, 1, 1, copies)
            found = proxy("variance", given(candidates["logits"], candidates["features"], labeled), ridge=1e-30)
            assert np.isfinite(found).all()
            assert min(found) >= 0


def test_only_what_a_proxy_takes_is_needed() -> None:
    both = {"logits": None, "features": None}
    labeled = {"labeled:logits": None, "labeled:features": None}
    others = {"error": {"logits": None}, "feature_norm": {"features": None}, "variance": both | labeled}
    for name in PROXIES:
        assert ACQUISITION.needs(Options.model_validate({"proxy": name})) == others.get(name, both)


def test_a_ridge_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ridge has no effect with proxy: error; remove it, or set ridge: 1.0"):
        Options(proxy="error", ridge=2.0)
    assert Options(proxy="error", ridge=1.0) == Options(proxy="error")
    with pytest.raises(ValueError, match="ridge"):
        Options(proxy="variance", ridge=0.0)
