"""Every way to the gradient norm of a convolution gives the norm, and each kind of layer takes the way meant for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lplgrad.gradient_norms.convolution import Convolution


@dataclass(frozen=True)
class Shape:
    """A convolution and its input."""

    channels: tuple[int, int]
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def part_and_norms(shape: Shape, dtype: torch.dtype = torch.float64) -> tuple[Convolution, Tensor]:
    """What the engine knows of a convolution, and the squared norm of each sample's gradient by autograd in float64."""
    torch.manual_seed(0)
    layer = nn.Conv2d(
        *shape.channels, shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups, bias=False
    ).double()
    x = torch.randn(3, shape.channels[0], *shape.size, dtype=torch.float64)
    g = torch.randn_like(layer(x))
    exact = [
        torch.autograd.grad((layer(one_x[None]) * one_g[None]).sum(), layer.weight)[0].square().sum()
        for one_x, one_g in zip(x, g, strict=True)
    ]
    return Convolution.of(layer, x.to(dtype), g.to(dtype)), torch.stack(exact)


SIDES = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Convolutions of every kind, larger than their input and striding over it included."""
    groups = draw(st.integers(1, 3))
    kernel, dilation, padding = draw(SIDES), draw(SIDES), draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    reach = [1 + (k - 1) * d - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [draw(st.integers(max(1, r), max(1, r) + 6)) for r in reach]
    channels = (groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)))
    return Shape(channels, (size[0], size[1]), kernel, draw(SIDES), padding, dilation, groups)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes())
def test_every_way_to_a_convolution_gives_the_norm(shape: Shape) -> None:
    part, exact = part_and_norms(shape)
    torch.testing.assert_close(part.squared_norm()[0], exact)
    torch.testing.assert_close(part.outer_products().squared_norm()[0], exact)
    torch.testing.assert_close(part._one_by_one(None), exact)
    if shape.groups == 1:
        torch.testing.assert_close(part._by_gram_matrices()[0], exact)


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        (Shape((64, 64), (32, 32), (3, 3), padding=(1, 1)), "_one_by_one"),
        (Shape((64, 128), (32, 32), (3, 3), (2, 2), (1, 1)), "outer_products"),
        (Shape((32, 32), (16, 16), (3, 3), padding=(1, 1), groups=32), "_one_by_one"),
        (Shape((128, 128), (16, 16), (3, 3), padding=(1, 1)), "_by_gram_matrices"),
        (Shape((256, 256), (8, 8), (3, 3), padding=(1, 1)), "_by_gram_matrices"),
        (Shape((256, 512), (8, 8), (3, 3), (2, 2), (1, 1)), "_by_gram_matrices"),
        (Shape((3, 64), (32, 32), (3, 3), padding=(1, 1)), "outer_products"),
        (Shape((3, 64), (64, 64), (7, 7), (2, 2), (3, 3)), "_one_by_one"),
        (Shape((64, 128), (32, 32), (1, 1), (2, 2)), "outer_products"),
        (Shape((256, 512), (8, 8), (1, 1), (2, 2)), "outer_products"),
        (Shape((4, 8), (56, 56), (1, 1), (2, 2)), "outer_products"),  # else oneDNN would write outside its memory
    ],
)
def test_the_layers_of_a_residual_network_in_float32(shape: Shape, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of layer takes the way meant for it, and keeps its digits there."""
    part, exact = part_and_norms(shape, torch.float32)
    ways = {name: getattr(Convolution, name) for name in ("_one_by_one", "_by_gram_matrices", "outer_products")}
    spies = {name: mock.create_autospec(original, side_effect=original) for name, original in ways.items()}
    for name, spy in spies.items():
        monkeypatch.setattr(Convolution, name, spy)
    found, lost = part.squared_norm()
    torch.testing.assert_close(found, exact, rtol=2e-6, atol=0)
    assert lost is None or not lost.any(), "nothing is computed twice"
    assert [name for name, spy in spies.items() if spy.called] == [way]


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        (Shape((64, 64), (32, 32), (3, 3), padding=(1, 1)), "outer_products"),
        (Shape((128, 128), (16, 16), (3, 3), padding=(1, 1)), "_by_gram_matrices"),
        (Shape((128, 256), (16, 16), (3, 3), (2, 2), (1, 1)), "outer_products"),
        (Shape((512, 512), (4, 4), (3, 3), padding=(1, 1)), "_by_gram_matrices"),
        # Where the costs of a CPU would choose the other way.
        (Shape((96, 96), (16, 16), (3, 3), padding=(1, 1)), "outer_products"),
    ],
)
def test_the_ways_of_a_gpu(shape: Shape, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device counts as one. By the costs of its memory it copies patches sooner than a CPU."""
    part, _ = part_and_norms(shape, torch.float32)
    part = replace(part, inputs=part.inputs.to("meta"), gradients=part.gradients.to("meta"))
    spies = {name: mock.Mock(side_effect=RuntimeError) for name in ("_by_gram_matrices", "outer_products")}
    for name, spy in spies.items():
        monkeypatch.setattr(Convolution, name, spy)
    with pytest.raises(RuntimeError):
        part.squared_norm()
    assert [name for name, spy in spies.items() if spy.called] == [way]
