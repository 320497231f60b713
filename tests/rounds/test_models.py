"""Models: sizes that are known, torchvision's layout, weights from their own stream."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
import torch
from torch import nn

from lplgrad.rounds.models import BasicBlock, LossPrediction, build_auxiliary, build_model, initialize
from lplgrad.study.settings import Model


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet18_has_its_known_size() -> None:
    assert count(build_model(Model(), 3, 10)) == 11_173_962
    assert count(build_model(Model(), 3, 100)) == 11_220_132


def test_imagenet_form_is_torchvisions_to_the_number() -> None:
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=101).eval()
    ours = build_model(Model(stem="imagenet"), 3, 101)
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict(), assign=True)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(ours.eval()(images), theirs(images))


@pytest.mark.parametrize(
    ("settings", "side", "channels"),
    [
        (Model(), 32, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        (Model(width=8), 32, [(8, 32), (16, 16), (32, 8), (64, 4)]),
        (Model(stem="imagenet"), 224, [(64, 56), (128, 28), (256, 14), (512, 7)]),
        (Model(name="small_resnet"), 8, [(16, 8), (32, 4), (64, 2)]),
    ],
)
def test_stages_and_the_loss_prediction_of_any_backbone(
    settings: Model, side: int, channels: list[tuple[int, int]]
) -> None:
    model = build_model(settings, 1, 7)
    initialize(model, torch.Generator())
    auxiliary = build_auxiliary(model)
    initialize(auxiliary, torch.Generator())
    stages = model.eval().stages(torch.randn(2, 1, side, side))
    assert [(stage.shape[1], stage.shape[2]) for stage in stages] == channels
    assert model(torch.randn(2, 1, side, side)).shape == (2, 7)
    assert auxiliary(stages).shape == (2,)


def test_loss_prediction_module_is_as_published() -> None:
    """Per stage pooling, a layer to 128 and ReLU; the four concatenated, a layer to one number."""
    auxiliary = LossPrediction([64, 128, 256, 512])
    assert count(auxiliary) == (64 + 128 + 256 + 512) * 128 + 4 * 128 + 512 + 1
    stages = [torch.randn(3, width, 4, 4) for width in (64, 128, 256, 512)]
    hidden = [torch.relu(layer(stage.mean(dim=(2, 3)))) for stage, layer in zip(stages, auxiliary.stages, strict=True)]
    expected = torch.cat(hidden, dim=1) @ auxiliary.fc.weight[0] + auxiliary.fc.bias
    torch.testing.assert_close(auxiliary(stages), expected)


def test_weights_come_from_the_generator_alone() -> None:
    def weights(seed: int, disturbance: int) -> list[torch.Tensor]:
        torch.manual_seed(disturbance)
        model = build_model(Model(name="small_resnet"), 3, 5)
        initialize(model, torch.Generator().manual_seed(seed))
        return [tensor.clone() for tensor in model.state_dict().values()]

    state = torch.random.get_rng_state()
    first = weights(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(1, 99), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, weights(2, 0), strict=True))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    initialize(build_model(Model(name="small_resnet"), 3, 5), torch.Generator())
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was drawn from"


def test_weights_are_distributed_as_pytorchs() -> None:
    ours = build_model(Model(), 3, 10)
    initialize(ours, torch.Generator().manual_seed(0))
    theirs = nn.Conv2d(256, 512, 3, bias=False).weight
    weight = ours.get_submodule("layer4")[0].conv1.weight  # type: ignore[index]
    assert weight.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
    assert weight.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01)
    assert ours.fc.bias.abs().max().item() <= 1 / 512**0.5


def test_a_layer_of_unknown_kind_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="PReLU"):
        initialize(nn.Sequential(nn.PReLU()), torch.Generator())


@pytest.mark.parametrize("name", ["resnet18", "small_resnet"])
@pytest.mark.parametrize("width", [1, 4, 8, 15, 16, 64])
def test_no_strided_convolution_of_one_pixel_has_too_few_channels(
    name: Literal["resnet18", "small_resnet"], width: int
) -> None:
    """On the CPU its weight gradient would be written outside its memory."""
    model = build_model(Model(name=name, width=width), 3, 4)
    strided = [
        layer.in_channels
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1)
    ]
    assert strided == [channels for channels in model.channels[:-1] if channels >= 16], "the others are as they were"


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
from lplgrad.rounds.models import build_model, initialize
from lplgrad.study.settings import Model

torch.set_num_threads(int(sys.argv[1]))
for width, side, batch in ((4, 56, 4), (8, 32, 15), (14, 56, 4)):
    model = build_model(Model(name="small_resnet", width=width), 3, 4)
    initialize(model, torch.Generator().manual_seed(width))
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
