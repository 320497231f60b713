"""Gradient norms of models that are put together in unusual ways: the right norm, or a refusal that names the place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from lplgrad.gradient_norms import PerSampleGradientNorms
from tests.gradient_norms.test_gradient_norms import oracle


def squared(output: Tensor) -> Tensor:
    """Any loss."""
    return output.flatten(1).square().sum(dim=1)


class Model(nn.Module):
    """Two linear layers and what a function makes of them."""

    def __init__(self, forward: Callable[[nn.Linear, nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.function = nn.Linear(6, 6), nn.Linear(6, 6), forward
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.one, self.two, x)


def inputs(count: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 6, dtype=torch.float64)


def agrees(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor] = squared) -> None:
    expected = oracle(model, x, loss)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(x, loss)
    torch.testing.assert_close((norms.total, norms.sum), expected, rtol=1e-9, atol=1e-12)


def without_gradients(one: nn.Linear, two: nn.Linear, x: Tensor) -> Tensor:
    """A fixed point: the last of several calls alone has a gradient."""
    with torch.no_grad():
        for _ in range(3):
            x = torch.tanh(one(x))
    output: Tensor = two(torch.tanh(one(x)))
    return output


USED_IN_PART: dict[str, Callable[[nn.Linear, nn.Linear, Tensor], Tensor]] = {
    "a call whose output is detached": lambda one, two, x: two(one(x) * one(2 * x).detach()),
    "a call whose output is dropped": lambda one, two, x: [two(one(x)), two(x)][1],
    "calls without gradients": without_gradients,
    "recomputed in the backward pass": lambda one, two, x: checkpoint(two, one(x), use_reentrant=False),
}


@pytest.mark.parametrize("name", USED_IN_PART)
def test_calls_that_have_no_part_in_the_loss_do_not_hide_the_others(name: str) -> None:
    agrees(Model(USED_IN_PART[name]), inputs())


ELSEWHERE: dict[str, Callable[[nn.Linear, nn.Linear, Tensor], Tensor]] = {
    "tied": lambda one, two, x: two(one(x)) @ one.weight,
    "cosine head": lambda one, two, x: F.linear(one(x), F.normalize(two.weight)),
    "not through the call": lambda one, two, x: two(one.forward(x)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_parameter_that_is_used_elsewhere_is_refused_by_name(name: str) -> None:
    model = Model(ELSEWHERE[name])
    with (
        PerSampleGradientNorms(model) as norms_of,
        pytest.raises(NotImplementedError, match="outside its layer's call"),
    ):
        norms_of(inputs(), squared)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


class Positions(nn.Module):
    """An embedding of positions, which all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(9, 4), nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(x) + self.places(torch.arange(x.shape[1])[None])).mean(dim=1)
        return logits


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (Positions(), torch.zeros(3, 5, dtype=torch.long), r"input of layer 'places' \(Embedding\).*\(1, 5\)"),
        (Model(lambda one, two, x: two(one(x[None]))[0]), inputs(), r"input of layer 'one' \(Linear\).*\(1, 3, 6\)"),
        (Model(lambda one, two, x: two(one(x.view(9, 2).repeat(1, 3)))[:3]), inputs(), r"batch of 3, but .*\(9, 6\)"),
    ],
    ids=["positions", "sequence first", "folded in"],
)  # fmt: skip
def test_a_first_dimension_that_is_not_the_batch_is_refused(model: nn.Module, x: Tensor, words: str) -> None:
    with PerSampleGradientNorms(model) as norms_of, pytest.raises(NotImplementedError, match=words):
        norms_of(x, squared)


@pytest.mark.parametrize("count", [1, 3])
def test_an_output_of_another_size_is_refused(count: int) -> None:
    """Five steps of a sequence for each sample, the steps first."""
    for lay_out in (lambda y: y.expand(5, -1, -1), lambda y: y.repeat(2, 1), lambda y: y.sum()):
        model = Model(lambda one, two, x, lay_out=lay_out: lay_out(two(one(x))))  # type: ignore[misc]
        words = rf"the model's output: its first dimension must be the batch of {count}, but it has the shape \("
        with PerSampleGradientNorms(model) as norms_of, pytest.raises(NotImplementedError, match=words):
            norms_of(inputs(count), lambda output: output.sum().expand(count))


class OtherLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def doubled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A wrapper that says it is what it wraps."""
    return functools.wraps(function)(lambda *arguments: 2 * function(*arguments))


def with_forward(layer: nn.Module, name: str = "forward") -> nn.Module:
    setattr(layer, name, doubled(getattr(layer, name)))
    return layer


REPLACED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward": (lambda: with_forward(nn.Linear(6, 6)), r"layer '0' \(Linear\): its forward is not PyTorch's"),
    "another's": (lambda: with_forward(nn.LayerNorm(6)), r"layer '0' \(LayerNorm\): its forward is not PyTorch's"),
    "_conv_forward": (
        lambda: with_forward(nn.Conv1d(3, 3, 1), "_conv_forward"),
        r"layer '0' \(Conv1d\): its _conv_forward is not PyTorch's",
    ),
    "a subclass": (lambda: OtherLinear(6, 6), r"layer '0' \(OtherLinear\): its forward is not"),
    "a parametrisation": (lambda: parametrizations.weight_norm(nn.Linear(6, 6)), "'0' is a ParametrizedLinear"),
    "weight norm": (lambda: nn.utils.spectral_norm(nn.Linear(6, 6)), r"0\.weight_orig: weights that are computed"),
    "pruning": (lambda: prune.l1_unstructured(nn.Linear(6, 6), "weight", 3), r"0\.weight_orig: weights that are"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_layers_that_compute_something_else_are_refused_by_name(name: str) -> None:
    build, words = REPLACED[name]
    model = nn.Sequential(build(), nn.Linear(6, 2))
    with pytest.raises(NotImplementedError, match=words):
        PerSampleGradientNorms(model)


def test_a_class_whose_forward_was_replaced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(lambda one, two, x: two(one(x)))
    entered = PerSampleGradientNorms(model)
    monkeypatch.setattr(nn.Linear, "forward", doubled(nn.Linear.forward))
    with pytest.raises(NotImplementedError, match=r"layer 'one' \(Linear\): its forward is not PyTorch's"), entered:
        pass


def test_a_compiled_layer_is_refused() -> None:
    model = Model(lambda one, two, x: two(one(x)))
    model.one.compile(backend="eager")
    with pytest.raises(NotImplementedError, match=r"layer 'one' \(Linear\): its _compiled_call_impl is not"):
        PerSampleGradientNorms(model)


def test_a_hook_of_all_modules_is_refused() -> None:
    """It comes before the hooks of single modules, and may change what they see."""
    model = Model(lambda one, two, x: two(one(x)))
    handle = nn.modules.module.register_module_forward_hook(lambda layer, arguments, output: 2 * output)
    with (
        pytest.raises(NotImplementedError, match="a forward hook of all modules is set"),
        PerSampleGradientNorms(model),
    ):
        pass
    handle.remove()
    agrees(model, inputs())


def test_one_parameter_in_two_places_of_a_layer_is_refused() -> None:
    norm = nn.LayerNorm(6)
    norm.bias = norm.weight
    with pytest.raises(NotImplementedError, match=r"parameter 0\.bias is shared with 0\.weight"):
        PerSampleGradientNorms(nn.Sequential(norm, nn.Linear(6, 2)))


def frozen(layer: nn.Module, *names: str) -> nn.Module:
    """A layer of which some parameters, or all, are frozen."""
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(bool(names) and name not in names)
    return layer


def tied_and_frozen() -> nn.Module:
    layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    layers[2].weight = layers[0].weight
    return frozen(layers)


FROZEN: dict[str, Callable[[], nn.Module]] = {
    "a kind that is not supported": lambda: frozen(nn.PReLU()),
    "a transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2)), frozen(nn.TransformerEncoderLayer(2, 1, 9, batch_first=True)), nn.Flatten()
    ),
    "a recurrent layer": lambda: frozen(nn.RNNCell(6, 6)),
    "a subclass": lambda: frozen(OtherLinear(6, 6)),
    "a parametrisation": lambda: frozen(parametrizations.weight_norm(nn.Linear(6, 6))),
    "another forward": lambda: frozen(with_forward(nn.Linear(6, 6))),
    "shared": tied_and_frozen,
    "a layer between": lambda: nn.Sequential(nn.Linear(6, 6), frozen(nn.PReLU()), frozen(nn.LayerNorm(6))),
    "weights": lambda: frozen(nn.Linear(6, 6), "weight"),
    "biases": lambda: frozen(nn.Linear(6, 6), "bias"),
    "a scale": lambda: frozen(nn.LayerNorm(6), "weight"),
    "weights that are computed": lambda: frozen(nn.utils.spectral_norm(nn.Linear(6, 6)), "weight_orig"),
    "statistics": lambda: frozen(nn.BatchNorm1d(6), "weight"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_frozen_does_not_count_and_may_be_anything(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), FROZEN[name](), nn.Linear(6, 2)).double().eval()
    agrees(model, inputs())
    agrees(nn.Sequential(FROZEN[name](), nn.Linear(6, 2)).double().eval(), inputs())


def test_batch_norm_by_the_batch_is_refused_though_it_is_frozen() -> None:
    model = nn.Sequential(frozen(nn.BatchNorm1d(6)), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="batch norm '0' is in train mode"), PerSampleGradientNorms(model):
        pass


def test_a_model_that_is_frozen_whole_is_refused_when_it_is() -> None:
    model = nn.Linear(6, 2)
    norms_of = PerSampleGradientNorms(model)
    frozen(model)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"), norms_of:
        pass
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        PerSampleGradientNorms(model)


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (64, 16), (256, 8)], ids=str)
def test_padding_and_dilation_that_were_set_later(channels: int, side: int) -> None:
    """As a residual network is dilated; each size takes another way."""
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    layer.dilation, layer.padding = (2, 2), (2, 2)
    model = nn.Sequential(layer, nn.Tanh(), nn.AdaptiveAvgPool2d(2)).double()
    agrees(model, torch.randn(2, channels, side, side, dtype=torch.float64))


def test_hooks_of_the_models_own_see_what_they_would_see() -> None:
    model = Model(lambda one, two, x: two(one(x)))
    model.one.register_forward_hook(lambda layer, arguments, output: output * 2)
    model.two.register_forward_pre_hook(lambda layer, arguments: (arguments[0] + 1,))
    agrees(model, inputs())


def test_inputs_by_name_and_one_output_a_sample() -> None:
    model = Model(lambda one, two, x: two(one(input=x)).sum(dim=1))
    expected = oracle(model, inputs(), torch.square)
    with PerSampleGradientNorms(model) as norms_of:
        norms = norms_of(inputs(), torch.square)
    torch.testing.assert_close((norms.total, norms.sum), expected)


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (nn.BatchNorm1d(6).train(), r"batch norm '0' is in train mode.*model\.eval\(\)"),
        (nn.BatchNorm1d(6, affine=False).train(), "batch norm '0' is in train mode"),
        (nn.BatchNorm1d(6, track_running_stats=False).eval(), "batch norm '0' has no running statistics"),
    ],
)
def test_batch_norm_by_the_batch_is_refused_before_it_is_touched(norm: nn.Module, words: str) -> None:
    model = nn.Sequential(norm, nn.Linear(6, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words), PerSampleGradientNorms(model):
        pass
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Centred(nn.Module):
    """Takes the mean over positions away, so that a common offset of the inputs cancels in the weight's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("offset", [1, 100, 1000])
def test_gram_matrices_that_cancel_keep_their_digits(offset: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), Centred(), nn.Tanh()).double()
    x = (torch.randn(4, 8, 256) + offset).double()
    total, _ = oracle(model, x, squared)
    with PerSampleGradientNorms(model.float()) as norms_of:
        norms = norms_of(x.float(), squared)
    torch.testing.assert_close(norms.total, total, rtol=5e-5, atol=0)  # autograd in float32 errs by 5e-6


def test_gram_matrices_of_a_convolution_that_cancel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(256, 256, 3), nn.InstanceNorm2d(256)).double()
    x = (torch.randn(2, 256, 8, 8) + 100).double()
    weights = torch.randn(256, 6, 6, dtype=torch.float64)
    total, _ = oracle(model, x, lambda output: (output * weights.to(output.dtype)).sum(dim=(1, 2, 3)))
    with PerSampleGradientNorms(model.float()) as norms_of:
        norms = norms_of(x.float(), lambda output: (output * weights).sum(dim=(1, 2, 3)))
    torch.testing.assert_close(norms.total, total, rtol=2e-5, atol=0)


def test_nothing_but_norms_comes_of_a_batch() -> None:
    """Neither what made the inputs nor the inputs get a gradient, and the model by itself works within the context."""
    before, model, x = nn.Linear(6, 6).double(), Model(lambda one, two, x: two(one(x))), inputs().requires_grad_()
    model.one.weight.grad = torch.ones_like(model.one.weight)
    with PerSampleGradientNorms(model) as norms_of:
        norms_of(before(x), squared)
        assert before.weight.grad is None
        assert x.grad is None
        assert model(x).requires_grad
        with torch.inference_mode():
            norms = norms_of(inputs(), squared)
    assert model.one.weight.grad.unique().tolist() == [1]
    torch.testing.assert_close((norms.total, norms.sum), oracle(model, inputs(), squared))


def overwritten(one: nn.Linear, two: nn.Linear, x: Tensor) -> Tensor:
    h = one(x)
    logits: Tensor = two(h)
    h.mul_(2)
    return logits


def test_mistakes_are_told_in_words() -> None:
    model = Model(lambda one, two, x: two(one(x)))
    with PerSampleGradientNorms(model) as norms_of:
        with pytest.raises(RuntimeError, match="entered already"), norms_of:
            pass
        with pytest.raises(ValueError, match="empty batch"):
            norms_of(inputs(0), squared)
    assert all(parameter.requires_grad for parameter in model.parameters())
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda one, two, x: (one(x), two(x)), TypeError, "a tensor, not a tuple"),
        (lambda one, two, x: two(one(x)).detach(), RuntimeError, "depends on no trainable layer"),
        (overwritten, RuntimeError, r"input of layer 'two' \(Linear\) was overwritten"),
    ]
    for function, kind, words in wrong:
        with PerSampleGradientNorms(Model(function)) as norms_of, pytest.raises(kind, match=words):
            norms_of(inputs(), squared)
    with pytest.raises(ValueError, match="no parameters"):
        PerSampleGradientNorms(nn.Flatten())
    with pytest.raises(NotImplementedError, match=r"parameter 0\.weight_orig: weights that are computed"):
        PerSampleGradientNorms(nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 2))))
    with pytest.raises(NotImplementedError, match="'0' is an Embedding with"):
        PerSampleGradientNorms(nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_hook_that_could_change_a_parameters_gradient_is_refused(name: str) -> None:
    """Autograd's gradient would be three times as large."""
    model = Model(lambda one, two, x: two(one(x)))
    norms_of = PerSampleGradientNorms(model)
    parameter = getattr(model.two, name)
    handle = parameter.register_hook(lambda gradient: 3 * gradient)
    words = rf"parameter two\.{name} has a hook \(register_hook\).*remove it"
    with pytest.raises(NotImplementedError, match=words), norms_of:
        pass
    with pytest.raises(NotImplementedError, match=words):
        PerSampleGradientNorms(model)
    parameter.requires_grad_(False)
    agrees(model, inputs())
    parameter.requires_grad_(True)
    handle.remove()
    parameter.register_post_accumulate_grad_hook(lambda parameter: parameter.grad.mul_(3))
    agrees(model, inputs())


UNBATCHED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "a map": (nn.Conv2d(3, 3, 3, padding=1), (3, 6, 5), r"layer '0' \(Conv2d\): it must have 4 axes,.*\(3, 6, 5\)"),
    "a sequence": (nn.Conv1d(3, 3, 3, padding=1), (3, 6), r"layer '0' \(Conv1d\): it must have 3 axes"),
    "features": (nn.Linear(3, 3), (3,), r"layer '0' \(Linear\): it must have at least 2 axes"),
    "one axis": (nn.LayerNorm(3), (3,), r"layer '0' \(LayerNorm\): it must have at least 2 axes"),
    # Without the check the norms would be wrong: a mean over samples passes for one over features.
    "a norm of all axes": (nn.LayerNorm((3, 6)), (3, 6), r"layer '0' \(LayerNorm\): it must have at least 3 axes"),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_an_input_without_a_batch_is_refused_though_its_first_dimension_fits(name: str) -> None:
    layer, shape, words = UNBATCHED[name]
    with (
        PerSampleGradientNorms(nn.Sequential(layer)) as norms_of,
        pytest.raises(NotImplementedError, match=f"input of {words}"),
    ):
        norms_of(torch.randn(shape), lambda output: output.reshape(3, -1).sum(dim=1))


class WithToken(Model):
    """A model with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__(lambda one, two, x: two(one(x)))
        self.token = nn.Parameter(torch.zeros(6))


def complex_model() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.weight = nn.Parameter(torch.zeros(6, 6, dtype=torch.complex64))
    return layer


def test_the_model_itself_is_named_in_words() -> None:
    with pytest.raises(
        NotImplementedError, match=r"^the model itself is a WithToken with trainable parameters of its own \(token\)"
    ):
        PerSampleGradientNorms(WithToken())
    with pytest.raises(NotImplementedError, match=r"^the model itself \(Linear\): its forward is not PyTorch's"):
        PerSampleGradientNorms(with_forward(nn.Linear(6, 6)))
    with pytest.raises(NotImplementedError, match=r"^parameter weight_orig: weights that are computed"):
        PerSampleGradientNorms(nn.utils.spectral_norm(nn.Linear(6, 6)))
    with (
        pytest.raises(ValueError, match=r"^the model itself is in train mode"),
        PerSampleGradientNorms(nn.BatchNorm1d(6)),
    ):
        pass
    with (
        PerSampleGradientNorms(nn.Linear(6, 6).double()) as norms_of,
        pytest.raises(
            NotImplementedError, match=r"^input of the model itself \(Linear\): it must have at least 2 axes"
        ),
    ):
        norms_of(inputs(1)[0], squared)


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"^parameter weight is complex"):
        PerSampleGradientNorms(complex_model())
    model = Model(lambda one, two, x: torch.fft.fft(two(one(x))))
    with PerSampleGradientNorms(model) as norms_of, pytest.raises(TypeError, match="output must be real, not complex"):
        norms_of(inputs(), squared)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_reentrant_checkpoints_are_refused_with_the_remedy() -> None:
    model = Model(lambda one, two, x: checkpoint(nn.Sequential(one, two), x, use_reentrant=True))
    after = Model(lambda one, two, x: checkpoint(two, one(x), use_reentrant=True))
    for one in (model, after):
        with PerSampleGradientNorms(one) as norms_of, pytest.raises(RuntimeError, match="use_reentrant=False"):
            norms_of(inputs(), squared)
