"""Models: sizes that are known, torchvision's layout, weights from their own stream."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lplgrad.models import LossPrediction, build_auxiliary, build_model, initialize
from lplgrad.settings import Model


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
