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


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class Placed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(3.0))


def test_what_has_no_known_first_value_is_refused() -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    for network, problem in (
        (nn.Sequential(Scaled()), "no first weights for 0.scale of a Scaled"),
        (nn.Sequential(Placed()), "no value for buffer 0.places of a Placed"),
        (tied, "a parameter is shared by two layers"),
    ):
        with pytest.raises(NotImplementedError, match=problem):
            initialize(network, torch.Generator())


def test_other_layers_initialise_themselves_from_the_generator() -> None:
    def network() -> nn.Sequential:
        with torch.device("meta"):
            return nn.Sequential(
                nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.PReLU(), nn.RMSNorm(4), nn.BatchNorm2d(2, affine=False),
                nn.InstanceNorm2d(2, affine=True, track_running_stats=True), nn.GroupNorm(1, 2, affine=False),
            )  # fmt: skip

    before = torch.random.get_rng_state()
    found = []
    for seed in (1, 1, 2):
        made = network()
        made.get_parameter("0.bias").requires_grad_(False)
        initialize(made, torch.Generator().manual_seed(seed))
        assert not made.get_parameter("0.bias").requires_grad
        found.append(made.state_dict())
    assert torch.equal(torch.random.get_rng_state(), before)
    one, again, other = found
    assert all(torch.equal(again[name], tensor) for name, tensor in one.items())
    assert not torch.equal(other["0.weight"], one["0.weight"])
    for name, value in {"1.running_var": 1.0, "2.weight": 0.25, "3.weight": 1.0, "5.running_mean": 0.0}.items():
        assert (one[name] == value).all(), name
