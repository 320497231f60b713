"""NCE-Net: probabilities, loss and scores by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lplgrad.acquisition import Candidates, choice_of
from lplgrad.acquisition import nce_net as query
from lplgrad.recipes import nce_net
from lplgrad.recipes._prototypes import (
    NEAREST,
    Centers,
    Prototypes,
    binary_losses,
    confusion,
    log_complement,
    rejection,
)
from lplgrad.rounds.evaluation import predict
from lplgrad.study.settings import RecipeRow, Training
from tests.learners import learner_of, run

FAR = 50.0  # whose sigmoid is 1, and 0 with a minus


def log_p(place: list[float], *prototypes: list[float], radius: float = 0.0) -> float:
    """log P of one class with some prototypes for one example, by the head; sigma is the radius's sigmoid, 0.5."""
    centers = Centers(len(place), 1, len(prototypes))
    centers.prototypes.data = torch.tensor([prototypes])
    centers.radii.data = torch.tensor([radius])
    return float(centers(torch.tensor([place])).detach())


def logit(value: float) -> float:
    return math.log(value / (1 - value))


class TestProbability:
    def test_at_the_prototype_it_is_one(self) -> None:
        assert math.exp(log_p([0.3, -1.2], [0.3, -1.2])) == pytest.approx(1, abs=1e-6)
        assert log_p([0.3, -1.2], [0.3, -1.2]) == pytest.approx(-4 * NEAREST, rel=1e-3), "and its complement is not 0"

    def test_at_a_right_angle(self) -> None:
        assert math.exp(log_p([FAR, -FAR], [-FAR, FAR])) == pytest.approx(0.018316, abs=1e-6)
        logarithms = torch.tensor([[log_p([FAR, -FAR], [-FAR, FAR])]])
        assert -float(logarithms) == pytest.approx(4, rel=1e-6)
        assert -float(log_complement(logarithms)) == pytest.approx(0.018485, abs=1e-6)

    def test_at_distance_one(self) -> None:
        """Directions 60 degrees apart."""
        at_60 = [logit(0.4), logit(0.4 * math.sqrt(3))]
        assert math.exp(log_p([FAR, -FAR], at_60)) == pytest.approx(0.135335, abs=1e-6)

    def test_between(self) -> None:
        assert math.exp(log_p([2.0, -2.0], [-2.0, 2.0])) == pytest.approx(0.053036, abs=1e-6)

    def test_it_falls_faster_with_a_smaller_radius(self) -> None:
        sigma = 1 / (1 + math.exp(1.0))
        expected = log_p([2.0, -2.0], [-2.0, 2.0]) * 0.25 / sigma**2
        assert log_p([2.0, -2.0], [-2.0, 2.0], radius=-1.0) == pytest.approx(expected, rel=1e-5)

    def test_it_depends_on_the_scale(self) -> None:
        """The sigmoid comes before the normalisation, so twice the features are another place."""
        assert log_p([2.0, -2.0], [-2.0, 2.0]) != pytest.approx(log_p([4.0, -4.0], [-2.0, 2.0]), rel=0.05)

    def test_the_nearest_of_several_prototypes_decides(self) -> None:
        near, far = [1.0, -1.0], [-3.0, 3.0]
        alone = log_p([2.0, -2.0], near)
        assert log_p([2.0, -2.0], near, far) == log_p([2.0, -2.0], far, near) == alone
        assert alone > log_p([2.0, -2.0], far)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_autocast_leaves_its_precision(self, dtype: torch.dtype) -> None:
        """In bfloat16 a cosine would be off by 0.004, far more than near prototypes differ."""
        torch.manual_seed(0)
        centers = Centers(64, 5, 2)
        centers.reset_parameters()
        places = (centers.prototypes.detach()[:, 0] + 0.1 * torch.randn(5, 64)).to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = centers(places)
        assert found.dtype == torch.float32
        assert torch.equal(found, centers(places))

    def test_first_radii_lie_on_both_sides_of_zero(self) -> None:
        torch.manual_seed(0)
        centers = Centers(2, 10_000, 1)
        centers.reset_parameters()
        radii = centers.radii.detach()
        assert float(radii.min()) == pytest.approx(-0.5, abs=0.002)
        assert float(radii.max()) == pytest.approx(0.5, abs=0.002)
        assert float(radii.mean()) == pytest.approx(0, abs=0.02)
        assert float(centers.prototypes.detach().std()) == pytest.approx(1, abs=0.03)

    def test_it_is_finite_wherever_the_features_are(self) -> None:
        head = Prototypes(3, 4)
        head.centers.reset_parameters()
        inputs = torch.tensor([[0.0] * 3, [1e4] * 3, [-1e4] * 3, [1e30, -1e30, 0.0]], requires_grad=True)
        logarithms = head(inputs)
        assert logarithms.isfinite().all()
        assert (logarithms < 0).all()
        torch.autograd.backward(binary_losses(logarithms, torch.tensor([0, 1, 2, 3])).sum())
        assert inputs.grad is not None
        assert inputs.grad.isfinite().all()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in head.parameters())


class TestLoss:
    def test_the_logarithm_of_the_complement_keeps_its_digits(self) -> None:
        values = -torch.logspace(-7, 1.9, 400, dtype=torch.float64)
        expected = torch.where(values > -1e-3, (-values).log() + values / 2, torch.log1p(-values.exp()))
        torch.testing.assert_close(log_complement(values), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(log_complement(values.float()).double(), expected, rtol=1e-5, atol=0)
        values.requires_grad_()
        (slopes,) = torch.autograd.grad(log_complement(values).sum(), values)
        torch.testing.assert_close(slopes, 1 / -torch.expm1(-values.detach()), rtol=1e-6, atol=0)

    def test_it_is_the_binary_cross_entropy_of_every_class(self) -> None:
        draw = torch.Generator().manual_seed(0)
        logarithms = -torch.rand(20, 5, generator=draw, dtype=torch.float64) * 4 - 1e-3
        labels = torch.randint(5, (20,), generator=draw)
        expected = F.binary_cross_entropy(logarithms.exp(), F.one_hot(labels, 5).double(), reduction="none")
        torch.testing.assert_close(binary_losses(logarithms, labels), expected)
        for over_classes in ("sum", "mean"):
            learner = learner_of(RecipeRow.model_validate({"trains": "nce_net", "over_classes": over_classes}))
            assert isinstance(learner, nce_net.Learner)
            wanted = getattr(expected, over_classes)(dim=1)
            torch.testing.assert_close(learner.losses(logarithms, labels), wanted)

    def test_training_gathers_each_class_around_its_prototype(self) -> None:
        learner = learner_of(RecipeRow(trains="nce_net"))
        epochs = run(learner, Training(epochs=60, batch_size=8, milestones=[], learning_rate=0.1, weight_decay=0.0))
        assert epochs[-1].means["loss"] < 0.5 * epochs[0].means["loss"]


class TestScores:
    def test_rejection_lies_between_zero_and_the_number_of_classes(self) -> None:
        nowhere, sure, everywhere = [-1e4] * 5, [-1e-9, *[-1e4] * 4], [0.0] * 5
        assert rejection(torch.tensor([nowhere, sure, everywhere])).tolist() == pytest.approx([5, 4, 0])

    def test_confusion_is_highest_for_equal_probabilities(self) -> None:
        half = [math.log(0.5)] * 5
        rows = torch.tensor([[-1e-9, *[-1e4] * 4], [-1e4] * 5, half, [0.0] * 5], dtype=torch.float64)
        assert confusion(rows).tolist() == pytest.approx([1, 5, 5, 5])

    def test_both_are_the_sums_over_the_classes(self) -> None:
        logarithms = -torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) * 5
        p = logarithms.double().exp()
        torch.testing.assert_close(rejection(logarithms), (1 - p).sum(dim=1))
        torch.testing.assert_close(confusion(logarithms), (1 - p.amax(dim=1, keepdim=True) + p).sum(dim=1))

    def test_the_learner_computes_them_from_its_logits(self) -> None:
        learner, images = learner_of(RecipeRow(trains="nce_net")), torch.randn(6, 1, 8, 8)
        found = predict(learner, [images], frozenset({"logits", "rejection", "confusion"}))
        assert torch.equal(found["rejection"], rejection(found["logits"]))
        assert torch.equal(found["confusion"], confusion(found["logits"]))
        assert (found["logits"] <= 0).all()

    @pytest.mark.parametrize(("by", "order"), [("rejection", [2, 0, 1]), ("confusion", [1, 2, 0])])
    def test_the_highest_is_labelled_first(self, by: str, order: list[int]) -> None:
        measured = {
            "rejection": torch.tensor([2.0, 1.0, 3.0]).double(),
            "confusion": torch.tensor([1.0, 3.0, 2.0]).double(),
        }
        options = query.Options.model_validate({"by": by})
        given = Candidates(np.arange(3), 1, 1, 3, measured)
        assert choice_of(query.ACQUISITION, given, options).picks.tolist() == order
