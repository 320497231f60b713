"""Gradient norms of numbers of any size, in any precision, and where PyTorch mistakes how tensors lie in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.gradient_norms.layouts import clear, contiguous, is_clear
from lplgrad.rounds.checkpoints import build
from lplgrad.study.settings import BackboneRow
from tests.gradient_norms.test_gradient_norms import oracle, oracle_of_tensors
from tests.learners import PLAIN


def linear_loss(output: Tensor) -> Tensor:
    """Its slopes are the same whatever the output is."""
    flat = output.double().flatten(1)
    return flat @ torch.linspace(0.5, 1.5, flat.shape[1], dtype=torch.float64)


class Scaled(nn.Module):
    """Scales its input, and so the gradients that come to the layers before it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


# Layers without a bias, whose gradients are linear in input and output gradient; each way to their norm is taken.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(30, 8, bias=False), (30,)),
    "linear by its gradient": (lambda: nn.Linear(4, 3, bias=False), (9, 4)),
    "linear by Gram matrices": (lambda: nn.Linear(40, 30, bias=False), (4, 40)),
    "convolution by patches": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 6, 6)),
    "convolution by Gram matrices": (lambda: nn.Conv2d(128, 128, 3, padding=1, bias=False), (128, 4, 4)),
    "convolution one by one": (lambda: nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False), (3, 48, 48)),
    "convolution of one pixel": (lambda: nn.Conv1d(30, 8, 1, bias=False), (30, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("dtype", "of_input", "of_gradient"),
    [
        (torch.float16, 400.0, 1.0),
        (torch.float16, 2e-4, 1.0),
        (torch.bfloat16, 1e25, 1e-3),
        (torch.bfloat16, 1e-25, 1.0),
        (torch.float32, 1e30, 1e-3),
        (torch.float32, 1e-30, 1.0),
        (torch.float32, 1e-22, 1e15),  # the product is in range, the factors' squares are not
        (torch.float32, 1e18, 1e-25),
        (torch.float32, 1.0, 1e25),
        (torch.float64, 1e200, 1e-50),
        (torch.float64, 1e-250, 1.0),
        (torch.float64, 1e-120, 1e-120),
    ],
    ids=str,
)
def test_squares_beyond_the_range_of_the_precision(
    name: str, dtype: torch.dtype, of_input: float, of_gradient: float
) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build().to(dtype)
    x = torch.rand(3, *shape).to(dtype)
    x[0] = 0  # has no gradient at all
    expected, _ = oracle(layer.double(), x.double(), linear_loss)
    # The factors as the type rounds them.
    exact = [float(torch.tensor(factor, dtype=dtype)) for factor in (of_input, of_gradient)]
    model = nn.Sequential(layer.to(dtype), Scaled(exact[1]))
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x * exact[0], linear_loss)
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(norms.total / exact[0] / exact[1], expected, rtol=tolerance, atol=0)
    assert torch.equal(norms.total, norms.sum)


def test_a_float16_layer() -> None:
    """The gradient of 10 equal slopes of unit length, times 512 inputs of 12, and that of the biases."""
    with PerSampleGradientNorms(nn.Linear(512, 10).half()) as norms_of:
        norms = norms_of(torch.full((2, 512), 12.0).half(), lambda output: output.sum(dim=1))
    expected = (10 * (512 * 12**2 + 1)) ** 0.5
    torch.testing.assert_close(norms.total, torch.full((2,), expected, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.LayerNorm(5), nn.Embedding(7, 5)],
    ids=lambda layer: type(layer).__name__,
)
def test_gradients_of_any_size_at_normalisations_and_embeddings(layer: nn.Module, size: float) -> None:
    torch.manual_seed(0)
    layer = layer.eval()
    x = torch.randint(7, (3, 6)) if isinstance(layer, nn.Embedding) else torch.randn(3, 6, 5)
    expected = oracle(layer.double(), x if isinstance(layer, nn.Embedding) else x.double(), linear_loss)
    with PerSampleGradientNorms(nn.Sequential(layer.float(), Scaled(size))) as norms_of:
        norms = norms_of(x, linear_loss)
    torch.testing.assert_close((norms.total / size, norms.sum / size), expected, rtol=1e-5, atol=0)


def test_one_extreme_sample_leaves_the_others_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(3, 3, 4, 4)
    with PerSampleGradientNorms(model) as norms_of:
        ordinary = norms_of(x, linear_loss)
        x[1] *= 1e25
        mixed = norms_of(x, linear_loss)
    assert torch.equal(ordinary.total[[0, 2]], mixed.total[[0, 2]])
    assert mixed.total[1] / ordinary.total[1] > 1e20


class InPlace(nn.Module):
    """Overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(3)


def test_a_model_that_overwrites_its_input() -> None:
    """A batch with an extreme sample is computed twice, from the same numbers."""
    torch.manual_seed(0)
    linear = nn.Linear(4, 3, bias=False)
    x = torch.randn(2, 4)
    x[1] *= 1e25
    expected = oracle(linear.double(), 3 * x.double(), linear_loss)
    with PerSampleGradientNorms(nn.Sequential(InPlace(), linear.float())) as norms_of:
        norms = norms_of(x, linear_loss)
    torch.testing.assert_close((norms.total, norms.sum), expected, rtol=1e-5, atol=0)


def test_a_batch_waits_for_a_gpu_once() -> None:
    """On the meta device a value that the host reads raises; the only question comes after the whole pass."""
    model = build(BackboneRow(name="resnet18"), PLAIN, (3, 32, 32), 10).model.eval()
    images = torch.empty(2, 3, 32, 32, device="meta")
    with PerSampleGradientNorms(model) as norms_of:
        norms, doubtful = norms_of._norms(images, entropy, {}, careful=False)
        assert norms.total.shape == doubtful.shape == (2,)
        with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
            norms_of._norms(images, entropy, {}, careful=True)


def test_a_sample_whose_loss_has_no_gradient_costs_no_second_pass() -> None:
    calls = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(torch.randn(2, 3, 4, 4), lambda output: output[:, 0] * torch.tensor([0.0, 1.0]))
    assert norms.total[0] == norms.sum[0] == 0 < norms.total[1]
    assert len(calls) == 1


@pytest.mark.parametrize("size", [1.0, 1e25])
def test_a_sample_without_a_gradient_has_the_norm_zero(size: float) -> None:
    layer = nn.Linear(30, 8)
    layer.bias.data.fill_(0)
    layer.weight.data.abs_()
    model = nn.Sequential(layer, nn.ReLU())
    x = torch.stack([torch.full((30,), -size), torch.full((30,), size)])
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, linear_loss)
    slopes = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    assert norms.total[0] == norms.sum[0] == 0
    assert norms.total[1].item() == pytest.approx(slopes.norm().item() * (30 * size**2 + 1) ** 0.5, rel=1e-5)


def test_tensors_whose_norms_have_no_square() -> None:
    """Norms of two tensors of a float64 model add up where their squares overflow."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), Scaled(1e180), nn.Linear(4, 2, bias=False)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, linear_loss)
    model[1] = Scaled(1.0)
    torch.testing.assert_close((norms.total / 1e180, norms.sum / 1e180), oracle(model, x, linear_loss))
    squares = oracle_of_tensors(model, x, linear_loss)
    torch.testing.assert_close((norms.tensors / 1e180).square(), squares)
    torch.testing.assert_close(norms.shares, squares / squares.sum(dim=1, keepdim=True))
    assert norms.squares.isinf().all()


class ByFormula(nn.Module):
    """What batch norm in eval mode, or instance norm, computes."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, nn.InstanceNorm2d):
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        else:
            mean, variance = (t.view(1, -1, 1, 1) for t in (self.norm.running_mean, self.norm.running_var))
        y: Tensor = (x - mean) / (variance + self.norm.eps).sqrt()
        if self.norm.weight is not None:
            y = y * self.norm.weight.view(1, -1, 1, 1) + self.norm.bias.view(1, -1, 1, 1)
        return y


class Called(nn.Module):
    """A norm that is called as a function."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.batch_norm(input=x, running_mean=self.norm.running_mean, running_var=self.norm.running_var)
        return y


def hidden(t: Tensor) -> Tensor:
    """The same in channels-last memory. Every axis of size one has the stride one, as after some views and means."""
    last = t.contiguous(memory_format=torch.channels_last)
    return last.as_strided(
        t.shape, [1 if size == 1 else step for size, step in zip(t.shape, last.stride(), strict=True)]
    )


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, both: bool) -> Tensor:
        return hidden(x) if both else x.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return hidden(gradient), None


class Hidden(nn.Module):
    """The identity. Hides how the gradient lies in memory that passes back, and how its output does."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = _Hidden.apply(x, self.both)
        return hidden


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("shape", [(3, 9, 9), (3, 8, 1), (3, 1, 8)], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.InstanceNorm2d(6)], ids=lambda norm: type(norm).__name__)
def test_norms_of_axes_of_size_one(norm: nn.Module, shape: tuple[int, ...], size: int) -> None:
    """PyTorch's own backward pass errs by tens of percent in some of these."""
    for both in (False, True):
        torch.manual_seed(0)
        before = nn.Sequential(nn.Unflatten(1, shape), nn.Conv2d(3, 6, 1), Hidden(both))
        after = nn.Sequential(Hidden(both), nn.Tanh(), nn.Conv2d(6, 2, 1))
        x = torch.randn(size, 3 * shape[1] * shape[2], dtype=torch.float64)
        model = nn.Sequential(before, norm, after).double().eval()
        expected = oracle(nn.Sequential(before, ByFormula(norm), after), x, linear_loss)
        with PerSampleGradientNorms(model) as norms_of:
            norms = norms_of(x, linear_loss)
        torch.testing.assert_close((norms.total, norms.sum), expected, rtol=1e-8, atol=1e-8)


def test_a_norm_that_is_called_as_a_function() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(9, affine=False).eval()
    layers = [nn.Conv2d(3, 9, 1), Hidden(False), Called(norm), Hidden(False), nn.Tanh(), nn.Conv2d(9, 9, 1)]
    model = nn.Sequential(*layers).double()
    x = torch.randn(2, 3, 1, 8, dtype=torch.float64)
    expected = oracle(nn.Sequential(*layers[:2], Scaled((1 + norm.eps) ** -0.5), *layers[3:]), x, linear_loss)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, linear_loss)
    torch.testing.assert_close((norms.total, norms.sum), expected)


def test_strides_that_do_not_tell_are_replaced_and_no_others() -> None:
    whole = torch.arange(24.0).reshape(1, 2, 3, 4)
    last = whole.contiguous(memory_format=torch.channels_last)
    assert [is_clear(t) for t in (whole, last, hidden(whole), whole[0], whole.transpose(1, 2))] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert clear(last) is last
    assert clear(hidden(whole)).stride() == last.stride()
    assert torch.equal(clear(hidden(whole)), whole)


class CalledGroupNorm(nn.Module):
    """Two groups, by one of PyTorch's functions."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, 2)


class ChannelsLast3d(nn.Module):
    """The identity, in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last_3d)


class Reshaped(nn.Module):
    """Moves channels into the batch or out of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.channels, *x.shape[2:])


def far_batch_norm(mean: float) -> nn.Module:
    norm = nn.BatchNorm2d(8)
    assert norm.running_mean is not None
    norm.running_mean.fill_(mean)
    return norm


FAR: dict[str, Callable[[float], nn.Module]] = {
    "group norm": lambda mean: nn.GroupNorm(2, 8),
    "group norm of single channels": lambda mean: nn.GroupNorm(8, 8),
    "group norm of one channel": lambda mean: nn.Sequential(
        Reshaped(1), Hidden(True), nn.GroupNorm(1, 1, affine=False), Reshaped(8)
    ),
    "group norm of volumes": lambda mean: nn.Sequential(
        nn.Unflatten(2, (3, 4)), ChannelsLast3d(), nn.GroupNorm(2, 8), nn.Flatten(2, 3)
    ),
    "group norm as a function": lambda mean: CalledGroupNorm(F.group_norm),
    "torch.group_norm": lambda mean: CalledGroupNorm(torch.group_norm),
    "instance norm": lambda mean: nn.InstanceNorm2d(8, affine=False),
    "layer norm": lambda mean: nn.LayerNorm((8, 12, 12)),
    "batch norm": far_batch_norm,
}


@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0])
@pytest.mark.parametrize("name", FAR)
def test_a_mean_that_is_large_against_the_deviation(name: str, mean: float) -> None:
    """Float32 autograd on contiguous tensors errs by 1e-5 at a mean of 100."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)
    assert first.bias is not None
    first.bias.data += mean
    model = nn.Sequential(first, FAR[name](mean), nn.Tanh(), last).eval()
    x = torch.randn(3, 3, 14, 14)
    expected = oracle(copy.deepcopy(model).double(), x.double(), linear_loss)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, linear_loss)
    torch.testing.assert_close((norms.total, norms.sum), expected, rtol=5e-5, atol=0)


def test_contiguous_tensors_have_the_usual_strides() -> None:
    plain = torch.arange(24.0).reshape(1, 2, 3, 4)
    one_channel = plain.as_strided((2, 1, 3, 4), (12, 1, 4, 1))
    assert contiguous(plain) is plain
    assert one_channel.is_contiguous()
    assert contiguous(one_channel).stride() == (12, 12, 4, 1)
    assert torch.equal(contiguous(one_channel), one_channel)
