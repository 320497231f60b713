"""Gradient norms against autograd one sample at a time in float64, and against what is known in closed form."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms
from lplgrad.gradient_norms.layers import PARTS
from tests.learners import learner_of

Loss = Callable[[Tensor], Tensor]


def oracle(model: nn.Module, inputs: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Both norms of every sample's gradient, by autograd on one sample after another, in float64."""
    total, summed = [], []
    for sample in inputs:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss(model(sample.unsqueeze(0))).sum(), parameters, allow_unused=True)
        norms = torch.stack([g.norm() for g in gradients if g is not None])
        total.append(norms.norm())
        summed.append(norms.sum())
    return torch.stack(total).detach(), torch.stack(summed).detach()


def oracle_of_tensors(model: nn.Module, inputs: Tensor, loss: Loss) -> Tensor:
    """The squared norm of every trainable parameter tensor's gradient, shape (B, P), by autograd on single samples."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = []
    for sample in inputs:
        gradients = torch.autograd.grad(loss(model(sample[None])).sum(), parameters, allow_unused=True)
        found.append([0.0 if g is None else g.double().square().sum().item() for g in gradients])
    return torch.tensor(found, dtype=torch.float64)


class Twice(nn.Module):
    """One layer called twice: its gradient is the sum over both calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.embed = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(torch.relu(self.layer(x)))
        logits: Tensor = self.embed(torch.tanh(self.embed(x.mean(dim=2))))
        return logits[:, 0]


class Shortcut(nn.Module):
    """Two paths, an activation that works in place, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.two = nn.Conv2d(3, 6, 1, stride=2, bias=False)
        self.idle = nn.Linear(2, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        both: Tensor = self.relu(self.one(x)) + self.two(x)
        return both.mean(dim=(2, 3))


def seen(model: nn.Module, *shape: int) -> nn.Module:
    """A model whose batch norm has seen data and whose parameters are not those of the start."""
    model.train()
    model(torch.randn(16, *shape, dtype=torch.float64))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


IMAGE = (3, 6, 5)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 4)), IMAGE),
    "linear without bias": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 4, bias=False)), IMAGE),
    "linear over positions": (
        lambda: nn.Sequential(nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 5), nn.Flatten(), nn.Linear(20, 4)),
        (4, 7),
    ),
    "linear over two axes": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Flatten(), nn.Linear(54, 4)), IMAGE),
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)), IMAGE),
    "conv padded": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 9, 3, padding=1, bias=False)),
        IMAGE,
    ),
    "conv strided": (lambda: nn.Sequential(nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0))), IMAGE),
    "conv of one pixel": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False)), IMAGE),
    "conv dilated": (lambda: nn.Sequential(nn.Conv2d(3, 4, 2, dilation=(2, 3), padding=1)), IMAGE),
    "conv grouped": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.Conv2d(6, 4, 3, groups=2)),
        IMAGE,
    ),
    "conv reflecting": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect")), IMAGE),
    "conv same": (lambda: nn.Sequential(nn.Conv2d(3, 4, (2, 4), padding="same")), IMAGE),
    "conv 1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), nn.ReLU()), (3, 9)),
    "conv 1d circular": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")), (3, 9)),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)),
        IMAGE,
    ),
    "batch norm 1d": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)), IMAGE),
    "batch norm fixed": (lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3)), IMAGE),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), IMAGE),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.LayerNorm((6, 6)), nn.LayerNorm((3, 6, 6))),
        IMAGE,
    ),
    "called twice": (Twice, (3, 4, 5)),
    "shortcut": (Shortcut, IMAGE),
}


def logits_of(output: Tensor) -> Tensor:
    return output.flatten(1)


def expected_loss(logits: Tensor) -> Tensor:
    """The cross-entropy expected under the prediction, by its formula, differentiated by autograd."""
    logits = logits.double()
    losses = logits.logsumexp(dim=1, keepdim=True) - logits
    return (logits.softmax(dim=1) * losses).sum(dim=1)


@pytest.mark.parametrize("loss", [entropy, expected_loss], ids=["entropy", "expected"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_agrees_with_autograd(name: str, loss: Loss) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = seen(build().double(), *shape)
    inputs = torch.randn(5, *shape, dtype=torch.float64)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(inputs, lambda output: loss(logits_of(output)))
    total, summed = oracle(model, inputs, lambda output: loss(logits_of(output)))
    torch.testing.assert_close(norms.total, total, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(norms.sum, summed, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(norms.output, model(inputs))
    squares = oracle_of_tensors(model, inputs, lambda output: loss(logits_of(output)))
    torch.testing.assert_close(norms.squares, squares, rtol=1e-9, atol=1e-20)
    assert norms.names == tuple(name for name, _ in model.named_parameters())


def test_embedding_agrees_with_autograd() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=2), nn.Flatten(), nn.Linear(12, 4)).double()
    words = torch.tensor([[0, 1, 1, 5], [2, 2, 3, 3], [4, 4, 4, 4], [0, 2, 4, 5]])
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(words, entropy)
    total, summed = oracle(model, words, entropy)
    torch.testing.assert_close(norms.total, total)
    torch.testing.assert_close(norms.sum, summed)


def confident_resnet(scale: float) -> nn.Module:
    """A small residual network in float64 whose logits are spread ``scale`` times as far as at the start."""
    model = learner_of(shape=(3, 8, 8), classes=10).model
    seen(model.double(), 3, 8, 8)
    model.get_parameter("fc.weight").data.mul_(scale)
    return model


def weighted_sum(weights: Tensor, output: Tensor) -> Tensor:
    return (output * weights).sum(dim=1)


@pytest.mark.parametrize("scale", [1.0, 60.0, 600.0, 20_000.0])
def test_float32_keeps_its_digits_on_a_confident_network(scale: float) -> None:
    """Taken in float32 the entropy's gradient would be wrong, and the squares of a certain sample's would underflow."""
    torch.manual_seed(0)
    single = confident_resnet(scale).float()
    inputs = torch.randn(16, 3, 8, 8)
    with PerSampleGradientNorms(single) as norms_of:
        norms = norms_of(inputs, entropy)
    # What is left to compare against is float64 behind the same logits: a logit of 100 has lost its fifth digit before
    # the entropy sees it, and the gradient is exponential in it.
    logits = norms.output.double().requires_grad_()
    (slope,) = torch.autograd.grad(entropy(logits).sum(), logits)
    largest = slope.abs().max(dim=1).values
    assert largest.min() < {1.0: 1, 60.0: 1e-3, 600.0: 1e-20, 20_000.0: 1e-200}[scale], "as confident as meant"
    double = copy.deepcopy(single).double()
    expected = [
        oracle(double, sample.double().unsqueeze(0), partial(weighted_sum, row / length if length else row))
        for sample, row, length in zip(inputs, slope, largest, strict=True)
    ]
    total, summed = (torch.cat(norms) * largest for norms in zip(*expected, strict=True))
    torch.testing.assert_close(norms.total, total, rtol=2e-5, atol=0)
    torch.testing.assert_close(norms.sum, summed, rtol=2e-5, atol=0)


def test_last_layer_closed_form() -> None:
    """For logits z = Wx the gradient of the entropy is dH/dz x^T, with dH/dz_k = -P_k (log P_k + H)."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, entropy)
    p = model(x).softmax(1)
    slope = -p * (p.log() + entropy(model(x)).unsqueeze(1))
    torch.testing.assert_close(norms.total, (slope.norm(dim=1) * x.norm(dim=1)).detach())


def test_two_classes_peak_at_a_probability_of_0_176() -> None:
    """The score is not monotone in entropy: for two classes |dH/dz| is largest, 0.224, at p of about 0.176."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    p = torch.linspace(0.001, 0.5, 2000, dtype=torch.float64)
    logit = (p / (1 - p)).log()
    with PerSampleGradientNorms(model) as norms_of:
        # Over the weights the gradient is dH/dz times the input: divide it out again.
        norms = norms_of(logit.unsqueeze(1), entropy).total / logit.abs()
    one_slope = norms[:-1] / 2**0.5  # both logits have the same slope but for its sign
    assert p[one_slope.argmax()] == pytest.approx(0.176, abs=0.001)
    assert one_slope.max() == pytest.approx(0.224, abs=0.001)


def test_zero_at_the_uniform_and_at_the_certain_prediction() -> None:
    model = nn.Linear(2, 3).double()
    model.weight.data.zero_()
    model.bias.data.zero_()
    x = torch.ones(2, 2, dtype=torch.float64)
    with PerSampleGradientNorms(model) as norms_of:
        assert norms_of(x, entropy).total.tolist() == pytest.approx([0, 0], abs=1e-15)
        model.bias.data[0] = 2000.0
        assert norms_of(x, entropy).total.tolist() == [0, 0]
        assert norms_of(x, entropy).sum.tolist() == [0, 0]


def test_neither_batches_nor_order_matter() -> None:
    torch.manual_seed(0)
    model = confident_resnet(2.0)
    x = torch.randn(12, 3, 8, 8, dtype=torch.float64)
    shuffled = torch.randperm(12)
    with PerSampleGradientNorms(model) as norms_of:
        whole = norms_of(x, entropy).total
        parts = torch.cat([norms_of(part, entropy).total for part in x.split([1, 4, 7])])
        moved = norms_of(x[shuffled], entropy).total
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(moved, whole[shuffled], rtol=1e-12, atol=0)


def test_the_model_is_untouched() -> None:
    model = confident_resnet(1.0)
    next(iter(model.parameters())).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with PerSampleGradientNorms(model) as norms_of:
        norms_of(torch.randn(3, 3, 8, 8, dtype=torch.float64), entropy)
    assert not model.training
    assert [parameter.requires_grad for parameter in model.parameters()][:2] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_do_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    model[0].weight.requires_grad_(False)
    x = torch.randn(3, 4, dtype=torch.float64)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, entropy)
    torch.testing.assert_close((norms.total, norms.sum), oracle(model, x, entropy))


def test_the_shares_of_tensors_and_layers_add_up_to_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Linear(3, 3)).double()
    model[2].bias.requires_grad_(False)
    x = torch.randn(3, 4, dtype=torch.float64)
    constant = torch.tensor([1.0, 0.0, 1e-190], dtype=torch.float64)  # no gradient, and squares that underflow
    with PerSampleGradientNorms(model) as norms_of:
        usual, other = norms_of(x, entropy), norms_of(x, lambda output: constant * entropy(output))
    assert usual.names == ("0.weight", "0.bias", "2.weight", "3.weight", "3.bias")
    torch.testing.assert_close(usual.shares, usual.squares / usual.squares.sum(dim=1, keepdim=True))
    assert other.squares[2].tolist() == [0] * 5
    assert other.shares[1].tolist() == [0] * 5
    torch.testing.assert_close(other.shares[[0, 2]], usual.shares[[0, 2]])
    layers = usual.shares_of_layers()
    assert list(layers) == ["0", "2", "3"]
    torch.testing.assert_close(layers["3"], usual.shares[:, 3] + usual.shares[:, 4])
    torch.testing.assert_close(sum(layers.values()), torch.ones(3, dtype=torch.float64))


def test_batches_are_joined_in_order() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(5, 4, dtype=torch.float64)
    with PerSampleGradientNorms(model) as norms_of:
        whole = norms_of(x, entropy)
        joined = GradientNorms.joined([norms_of(part, entropy) for part in x.split(2)])
    assert joined.names == whole.names
    for name in ("total", "sum", "output", "tensors"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name))


def test_weights_lie_in_memory_as_before_and_keep_what_was_written() -> None:
    """Within the context convolutions lie in channels-last memory; then the caller's tensors are back."""
    layer = nn.Conv2d(3, 4, 3)
    weight, place = layer.weight, layer.weight.data_ptr()
    model = nn.Sequential(layer, nn.Flatten())
    with PerSampleGradientNorms(model) as norms_of:
        norms_of(torch.randn(2, 3, 4, 4), entropy)
        weight.data[0] = 7.0
    assert layer.weight is weight
    assert weight.data_ptr() == place
    assert weight.is_contiguous()
    assert weight.data[0].unique().tolist() == [7.0]


def test_batch_norm_far_from_zero_keeps_its_digits() -> None:
    """Where the mean is thousands of deviations, sum(g x) - mean sum(g) would cancel all there is."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean = torch.tensor([0.0, 1.0, 1000.0, 4e4])
    x = torch.randn(6, 4, 8, 8) + norm.running_mean.view(-1, 1, 1)
    g = torch.randn(6, 4, 8, 8)
    exact = (g.double() * (x.double() - norm.running_mean.view(-1, 1, 1))).sum(dim=(2, 3)).square().sum(dim=1)
    found = PARTS[nn.BatchNorm2d](norm, x, g)["weight"].squared_norm()[0]
    torch.testing.assert_close(found, exact / (1 + norm.eps), rtol=1e-5, atol=0)


@pytest.mark.parametrize("confidence", [1.0, 60.0])
def test_rounded_contractions_stay_close(confidence: float) -> None:
    """Only the factors of the contractions are rounded, to bfloat16: a norm averages over thousands of roundings."""
    torch.manual_seed(0)
    model = confident_resnet(confidence).float()
    inputs = torch.randn(16, 3, 8, 8)
    with PerSampleGradientNorms(model) as norms_of:
        exact = norms_of(inputs, entropy)
    with PerSampleGradientNorms(model, contractions=torch.bfloat16) as norms_of:
        rounded = norms_of(inputs, entropy)
    assert torch.equal(rounded.output, exact.output)
    torch.testing.assert_close(rounded.total, exact.total, rtol=1e-3, atol=0)
    torch.testing.assert_close(rounded.sum, exact.sum, rtol=1e-3, atol=0)


def test_nothing_of_a_batch_is_kept_after_a_failure() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    kept: list[weakref.ref[Tensor]] = []
    model[0].register_forward_hook(lambda layer, arguments, output: kept.append(weakref.ref(output)))
    with PerSampleGradientNorms(model) as norms_of:
        with pytest.raises(ValueError, match="one scalar a sample"):
            norms_of(torch.randn(2, 2), lambda output: output)
        gc.collect()
        assert [reference() for reference in kept] == [None]
        assert norms_of(torch.randn(2, 2), entropy).total.shape == (2,)


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(NotImplementedError, match="'1' is a PReLU"):
        PerSampleGradientNorms(nn.Sequential(nn.Linear(2, 2), nn.PReLU()))
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(NotImplementedError, match=r"1\.weight is shared with 0\.weight"):
        PerSampleGradientNorms(tied)
    with PerSampleGradientNorms(nn.Linear(2, 2)) as norms_of, pytest.raises(ValueError, match="one scalar a sample"):
        norms_of(torch.randn(2, 2), lambda output: output)
