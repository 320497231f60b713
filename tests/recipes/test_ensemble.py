"""The recipe `ensemble`: independent members, of which one alone is the recipe `plain`."""

from functools import partial

import numpy as np
import pytest
import torch

from lplgrad.acquisition import Slope
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import build, first_weights, tensors_of
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.rounds.needs import gradient_norms
from lplgrad.study.settings import BackboneRow, RecipeRow, Training
from tests.learners import view_of

BACKBONE = BackboneRow.model_validate({"name": "small_resnet", "width": 4})
STREAM = partial(stream, 1, round_number=1)
TRAINING = Training(epochs=3, batch_size=8, learning_rate=0.05, milestones=[])


def trained(**recipe: object) -> tuple[Learner, list[float]]:
    """A learner after three epochs on 20 images, and its losses."""
    learner = first_weights(build(BACKBONE, RecipeRow.model_validate(recipe), (1, 8, 8), 3), BACKBONE, STREAM)
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8))
    labels = torch.from_numpy(draw.integers(0, 3, 20))
    draws = Draws(images, labels, 8, view_of(), STREAM)
    return learner, [epoch.means["loss"] for epoch in train(learner, draws, TRAINING)]


def test_an_ensemble_of_one_is_plain() -> None:
    (one, losses), (plain, expected) = trained(trains="ensemble", members=1), trained(trains="plain")
    found, wanted = tensors_of(one), tensors_of(plain)
    assert losses == expected
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    inputs = torch.randn(5, 1, 8, 8)
    assert torch.equal(predict(one, [inputs])["logits"], predict(plain, [inputs])["logits"])


def test_members_do_not_depend_on_each_other() -> None:
    two, three = (tensors_of(trained(trains="ensemble", members=members)[0]) for members in (2, 3))
    assert two.keys() < three.keys()
    assert all(torch.equal(three[name], tensor) for name, tensor in two.items())
    layers = [three[f"{member}/conv1.weight"] for member in ("model", "member2", "member3")]
    assert not torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[1], layers[2])


def test_members_differ_in_weights_order_and_augmentation() -> None:
    learner, _ = trained(trains="ensemble", members=2)
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 3, 1).contiguous()
    draws = Draws(images, torch.arange(20), 20, view_of((3, 3, 1), {"crop_padding": 1}), STREAM)
    draws.begin_epoch(0)
    (first, order), (second, other) = draws.labeled(), draws.labeled("member2")
    assert sorted(order.tolist()) == sorted(other.tolist()) == list(range(20))
    assert order.tolist() != other.tolist()
    corners = [(inputs[labels.argsort()] == -2).flatten(1) for inputs, labels in ((first, order), (second, other))]
    assert not torch.equal(*corners)
    assert learner.networks.keys() == {"model", "member2"}


def test_the_prediction_is_the_mean_of_the_softmaxes() -> None:
    learner, _ = trained(trains="ensemble", members=3)
    inputs = torch.randn(5, 1, 8, 8)
    found = predict(learner, [inputs[:2], inputs[2:]], frozenset({"logits", "member_logits", "features"}))
    mean = found["member_logits"].double().softmax(dim=2).mean(dim=1)
    torch.testing.assert_close(found["logits"].double().softmax(dim=1), mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(learner.reported(inputs).detach(), found["logits"])
    assert found["member_logits"].shape == (5, 3, 3)
    assert found["features"].shape == (5, 3 * 16)


def test_gradient_norms_are_those_of_the_mean() -> None:
    learner, _ = trained(trains="ensemble", members=2)
    inputs = torch.randn(4, 1, 8, 8)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return -logits.double().softmax(dim=1).square().sum(dim=1)

    found = gradient_norms(learner, Slope(loss), [inputs], 3)
    for position in range(4):
        parameters = list(learner.reported.parameters())
        gradients = torch.autograd.grad(loss(learner.reported(inputs[position : position + 1])).sum(), parameters)
        expected = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt()
        assert found.total[position].item() == pytest.approx(expected.item(), rel=1e-4)
