"""First weights of any network: from their own random stream, distributed as PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lplgrad.backbones._network import initialize
from lplgrad.study.settings import BackboneRow
from tests.learners import JOINT, PLAIN, learner_of, same, state


def test_weights_come_from_the_generator_alone() -> None:
    def weights(seed: int, disturbance: int) -> dict[str, Tensor]:
        torch.manual_seed(disturbance)
        return state(learner_of(JOINT, seed=seed))

    first = weights(1, 0)
    assert same(first, weights(1, 99))
    assert not same(first, weights(2, 0))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    learner_of(JOINT)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was drawn from"


def test_recipes_and_rounds_start_from_the_weights_they_should() -> None:
    plain, joint = learner_of(PLAIN), learner_of(JOINT)
    assert same(state(plain), state(joint, ["model"]))
    assert not same(state(plain), state(learner_of(PLAIN, round_number=2)))


def test_weights_are_distributed_as_pytorchs() -> None:
    ours = learner_of(PLAIN, BackboneRow(name="resnet18"), (3, 32, 32), 10).model
    theirs = nn.Conv2d(256, 512, 3, bias=False).weight
    weight = ours.get_parameter("layer4.0.conv1.weight")
    assert weight.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
    assert weight.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)
    assert ours.get_parameter("fc.bias").abs().max().item() <= 1 / 512**0.5


@pytest.mark.parametrize("layer", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.BatchNorm2d(4)])
def test_norms_start_as_pytorchs(layer: nn.Module) -> None:
    expected = copy.deepcopy(layer).state_dict()
    blank = copy.deepcopy(layer).to("meta")
    initialize(blank, torch.Generator())
    found = blank.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_layer_of_unknown_kind_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="PReLU"):
        initialize(nn.Sequential(nn.PReLU()), torch.Generator())
