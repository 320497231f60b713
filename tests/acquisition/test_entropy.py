"""The entropy of predictions, and the norm of its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad.acquisition import Candidates, gradient_norm
from lplgrad.acquisition.entropy import entropy
from lplgrad.acquisition.gradient_norm import Options
from lplgrad.gradient_norms import GradientNorms


def test_entropy_is_that_of_scipy() -> None:
    from scipy.stats import entropy as reference

    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 4
    expected = reference(logits.double().softmax(dim=1).numpy(), axis=1)
    np.testing.assert_allclose(entropy(logits).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("row", [[0, 0, 0], [1, 2, 3], [0, 30, 0], [5, -36, 41], [800, 0, 100], [1e4, 0, -1e4]])
def test_entropy_and_its_gradient_keep_their_digits(row: list[float]) -> None:
    """Against 400 digits of mpmath; the probabilities of the later rows underflow in float64."""
    from mpmath import mp, mpf

    with mp.workdps(400):
        weights = [mp.exp(mpf(z)) for z in row]
        p = [weight / sum(weights) for weight in weights]
        exact = -sum(q * mp.log(q) for q in p)
        slopes = [float(-q * (mp.log(q) + exact)) for q in p]
        exact = float(exact)
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    found = entropy(logits)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert found.item() == pytest.approx(exact, rel=1e-13, abs=1e-320)
    assert gradient[0].tolist() == pytest.approx(slopes, rel=1e-12, abs=1e-16 * max(map(abs, slopes)) + 1e-320)


def test_the_expected_loss_is_the_entropy() -> None:
    """Wang et al.'s other scheme, by its own formula and by autograd through the weights of the expectation."""
    logits = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = sum(
        logits.softmax(dim=1)[:, k] * torch.nn.functional.cross_entropy(logits, torch.full((9,), k), reduction="none")
        for k in range(6)
    )
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(entropy(logits), expected)
    one, other = (torch.autograd.grad(value.sum(), logits)[0] for value in (entropy(logits), expected))
    torch.testing.assert_close(one, other)


def test_gradient_norm_offers_both_norms() -> None:
    total, added = torch.rand(2, 9, dtype=torch.float64)
    norms = GradientNorms(total, added, torch.zeros(9, 3), torch.rand(9, 2), ("weight", "bias"))
    given = Candidates(np.arange(9), 1, 1, 2, {"gradient_norms": norms})
    assert torch.equal(gradient_norm.score(given, Options()), total)
    assert torch.equal(gradient_norm.score(given, Options(norm="sum")), added)


@pytest.mark.parametrize("scheme", ["entropy", "expected"])
def test_gradient_norm_asks_for_the_gradient_of_the_entropy(scheme: str) -> None:
    needs = gradient_norm.ACQUISITION.needs(Options.model_validate({"scheme": scheme}))
    logits = torch.randn(4, 3)
    torch.testing.assert_close(needs["gradient_norms"].loss(logits), entropy(logits))
