"""Residual networks: sizes that are known, torchvision's layout, narrow shortcuts, dropout before the head."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lplgrad.backbones._network import Network
from lplgrad.backbones._residual import BasicBlock
from lplgrad.rounds.checkpoints import build
from lplgrad.study.settings import BackboneRow
from tests.learners import PLAIN, SMALL, learner_of


def row(name: str = "resnet18", **options: Any) -> BackboneRow:
    return BackboneRow.model_validate({"name": name, **options})


def network(channels: int, classes: int, name: str = "resnet18", **options: Any) -> Network:
    """A network without weights."""
    return build(row(name, **options), PLAIN, (channels, 32, 32), classes).model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet18_has_its_known_size() -> None:
    assert count(network(3, 10)) == 11_173_962
    assert count(network(3, 100)) == 11_220_132


def test_imagenet_form_is_torchvisions_to_the_number() -> None:
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=101).eval()
    ours = network(3, 101, stem="imagenet")
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict(), assign=True)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(ours.eval()(images), theirs(images))


@pytest.mark.parametrize(
    ("settings", "side", "maps"),
    [
        (row(), 32, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        (row(width=8), 32, [(8, 32), (16, 16), (32, 8), (64, 4)]),
        (row(stem="imagenet"), 224, [(64, 56), (128, 28), (256, 14), (512, 7)]),
        (row("small_resnet"), 8, [(16, 8), (32, 4), (64, 2)]),
    ],
)
def test_the_size_of_every_stage(settings: BackboneRow, side: int, maps: list[tuple[int, int]]) -> None:
    model = learner_of(PLAIN, settings, (1, side, side), 7).model.eval()
    seen: list[tuple[int, int]] = []
    for stage in range(len(maps)):
        layer = model.get_submodule(f"layer{stage + 1}")
        layer.register_forward_hook(lambda _, given, made: seen.append((made.shape[1], made.shape[2])))
    outputs = model.outputs(torch.randn(2, 1, side, side), stages=True)
    assert seen == maps
    assert list(model.stage_sizes) == [channels for channels, _ in maps]
    assert outputs.logits.shape == (2, 7)
    torch.testing.assert_close(outputs.stages[-1], outputs.features, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "small_resnet"])
@pytest.mark.parametrize("width", [1, 4, 8, 15, 16, 64])
def test_no_strided_convolution_of_one_pixel_has_too_few_channels(name: str, width: int) -> None:
    """On the CPU its weight gradient would be written outside its memory."""
    model = network(3, 4, name, width=width)
    strided = [
        layer.in_channels
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1)
    ]
    assert strided == [channels for channels in model.stage_sizes[:-1] if channels >= 16], "the others are unchanged"


@pytest.mark.parametrize("side", [8, 9])
def test_a_narrow_shortcut_is_the_strided_convolution(side: int) -> None:
    torch.manual_seed(0)
    block = BasicBlock(4, 8, stride=2).double().eval()
    assert block.downsample is not None
    x = torch.randn(2, 4, side, side, dtype=torch.float64)
    shortcut = nn.functional.conv2d(x, block.downsample[0].weight, stride=2)  # type: ignore[index]
    expected = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))) + block.downsample[1](shortcut))  # type: ignore[index]
    torch.testing.assert_close(block(x), expected)


# Gradients of narrow models, several times over, and once compared with those in float64.
NARROW = """
import copy, sys
import torch
from torch.nn import functional as F
from functools import partial
from lplgrad.machine.randomness import stream
from lplgrad.rounds.checkpoints import build, first_weights
from lplgrad.study.settings import BackboneRow, RecipeRow

torch.set_num_threads(int(sys.argv[1]))
for width, side, batch in ((4, 56, 4), (8, 32, 15), (14, 56, 4)):
    backbone = BackboneRow(name="small_resnet", width=width)
    learner = build(backbone, RecipeRow(trains="plain"), (3, side, side), 4)
    model = first_weights(learner, backbone, partial(stream, width)).model
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    images, labels = images.contiguous(memory_format=torch.channels_last), torch.arange(batch) % 4
    double = copy.deepcopy(model).double()
    torch.autograd.backward(F.cross_entropy(double(images.double()), labels))
    for repetition in range(4):
        model.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        for found, exact in zip(model.parameters(), double.parameters(), strict=True):
            error = (found.grad - exact.grad).norm() / exact.grad.norm()
            assert error < 0.02, (width, side, batch, float(error))
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_training_narrow_models_neither_crashes_nor_errs(threads: int) -> None:
    done = subprocess.run([sys.executable, "-c", NARROW, str(threads)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class Standardised(torch.nn.Module):
    """Batch norm in train mode, by its formula."""

    def __init__(self, norm: torch.nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + self.eps).sqrt()
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_the_gradients_of_a_batch_of_one(count: int) -> None:
    """PyTorch's batch norm may mistake the layout of one image on the CPU; that of our models it does not."""
    model = learner_of(PLAIN).model.double().train()
    reference = copy.deepcopy(model)
    for name, layer in list(reference.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(reference.get_submodule(parent), child, Standardised(layer))
    images = torch.randn(count, 8, 8, 1, dtype=torch.float64).permute(0, 3, 1, 2)
    gradients = [
        torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
        for network in (model, reference)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


class TestDropout:
    """It drops features before the head, in train mode alone."""

    def test_train_mode_scales_what_it_keeps_and_eval_mode_keeps_all(self) -> None:
        backbone = row("small_resnet", width=4, dropout=0.5)
        model, without = (learner_of(PLAIN, each, (1, 8, 8), 3).model for each in (backbone, SMALL))
        images = torch.randn(4, 1, 8, 8)
        assert torch.equal(model.eval()(images), without.eval()(images)), "the same first weights"
        for layer in model.modules():
            layer.train(isinstance(layer, nn.Dropout))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = model.outputs(images)
            torch.manual_seed(0)
            dropped = nn.functional.dropout(outputs.features, 0.5)
        kept = dropped != 0
        assert 0 < int(kept.sum()) < kept.numel()
        expected = dropped @ model.get_parameter("fc.weight").T + model.get_parameter("fc.bias")
        torch.testing.assert_close(outputs.logits, expected)

    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_it_is_offered_only_if_there_is_any(self, dropout: float) -> None:
        from lplgrad import backbones

        settings = row("resnet18", dropout=dropout)
        offered = backbones.registry.load("resnet18").offers(settings.checked_options)
        assert ("dropout" in offered) == bool(dropout)
