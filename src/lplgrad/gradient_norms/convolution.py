"""Norms of a convolution's per-sample weight gradients.

A convolution is a linear layer applied to T patches x_t of its input, so a sample's weight gradient is
``sum_t g_t x_t^T``. The cheapest of three methods is used, by an estimate from the sizes alone:

- **one by one**: compute the gradient itself, by the backward pass of a convolution on one sample;
- **Gram matrices**: the squared norm is ``sum_{t,u} (g_t . g_u) (x_t . x_u)``. The patches' Gram matrix is the sum of
  the pixels' Gram matrix, shifted along its diagonal, over the kernel's offsets: first over rows, then over columns;
- **patches**: copy the patches, as for a linear layer. A kernel of one pixel always uses this method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.gradient_norms.parts import OuterProducts, at_a_time, gram_is_cheaper, of_device, squares, sum_of_products

# Costs in multiplications of a product of large matrices: of adding a number to another in place, and of a number of a
# patch. Those of a CPU were fitted to measured seconds. On a GPU memory is the cost: by the data sheets of A100, H100
# and H200, reading or writing a float32 takes as long as 25 to 40 multiplications, so it counts 30. An addition reads
# two numbers and writes one. A number of a patch is read, written, and read by the product.
COST_OF_ADDING = {"cpu": 80, "cuda": 3 * 30}
COST_OF_LAYING_OUT = {"cpu": 230, "cuda": 3 * 30}
# Costs on a CPU of a multiplication in the backward pass of one sample's convolution, and of calling that.
COST_ONE_BY_ONE = 3
COST_OF_A_CALL = 3_000_000
# Numbers processed at a time, in Gram matrices and in patches: see ``parts.ENTRIES``.
GRAM_ENTRIES = {"cpu": 2**18, "cuda": 2**26}
PATCH_ENTRIES = {"cpu": 2**20, "cuda": 2**27}


@dataclass(frozen=True)
class Convolution:
    """A convolution's weight gradient."""

    inputs: Tensor  # shape (B, C, H, W); padded already unless the padding is symmetric and zero
    gradients: Tensor  # at the outputs, shape (B, O, H', W')
    kernel: tuple[int, int]  # in rows and in columns
    stride: tuple[int, int]  # in rows and in columns
    dilation: tuple[int, int]  # in rows and in columns
    padding: tuple[int, int]  # in rows and in columns
    groups: int  # independent groups of channels

    @classmethod
    def of(cls, layer: nn.Conv1d | nn.Conv2d, x: Tensor, g: Tensor) -> Convolution:
        """Return the weight gradient of a layer. A sequence is a map with one row."""
        kernel, stride, dilation = (
            (1, *values) if len(values) == 1 else tuple(values)
            for values in (layer.kernel_size, layer.stride, layer.dilation)
        )
        if layer.padding_mode == "zeros":
            (top, bottom), (left, right) = [(0, 0), *zero_padding(layer)][-2:]
        else:
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            left = right = top = bottom = 0
        if isinstance(layer, nn.Conv1d):
            x, g = x.unsqueeze(2), g.unsqueeze(2)
        if (left, top) != (right, bottom):
            x = F.pad(x, (left, right, top, bottom))
            left = top = 0
        return cls(x, g, kernel, stride, dilation, (top, left), layer.groups)  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: Sequence[Convolution]) -> OuterProducts:
        return OuterProducts.joined([part.outer_products() for part in parts])

    def squared_norm(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        # A kernel of one pixel must not use a convolution's backward pass: with a stride and few channels, oneDNN may
        # write outside its memory.
        if self.kernel == (1, 1) and self.padding == (0, 0):
            return self.outer_products().squared_norm(dtype)
        positions = self.gradients[0, 0].numel()
        products = self.gradients[0].numel() * self._fan_in
        patches = positions * self._fan_in * self.groups
        costs = {"patches": products + of_device(COST_OF_LAYING_OUT, self.inputs.device) * patches}
        if self.groups == 1:
            costs["gram"] = self._gram_cost()
        if self.inputs.device.type == "cpu":
            costs["one by one"] = products * COST_ONE_BY_ONE + COST_OF_A_CALL
        cheapest = min(costs, key=costs.__getitem__)
        if cheapest == "gram":
            return self._by_gram_matrices()
        if cheapest == "one by one":
            return self._one_by_one(dtype), None
        parts = self._split(at_a_time(PATCH_ENTRIES, patches, self.inputs.device))
        if dtype is not None and not gram_is_cheaper(positions, self._fan_in, self.gradients.shape[1] // self.groups):
            parts = [replace(part, inputs=part.inputs.to(dtype)) for part in parts]
        found, lost = zip(*(part.outer_products().squared_norm(dtype) for part in parts), strict=True)
        return torch.cat(found), None if lost[0] is None else torch.cat(lost)

    def outer_products(self) -> OuterProducts:
        """Copy the patches, as the inputs of a linear layer."""
        (rows, columns), (height, width) = self.kernel, self.gradients.shape[2:]
        size, groups = len(self.inputs), self.groups
        x = self.inputs
        if self.padding != (0, 0):
            x = F.pad(x, (self.padding[1],) * 2 + (self.padding[0],) * 2)
        n, c, h, w = x.stride()
        (down, along), (apart, aside) = self.stride, self.dilation
        channels = x.shape[1] // groups
        patches = x.as_strided(
            (size, groups, height, width, rows, columns, channels),
            (n, c * channels, h * down, w * along, h * apart, w * aside, c),
            x.storage_offset(),
        )
        g = self.gradients.permute(0, 2, 3, 1).reshape(size, height * width, groups, -1)
        return OuterProducts(patches.reshape(size, groups, height * width, -1), g.transpose(1, 2))

    def _split(self, count: int) -> list[Convolution]:
        """Split the batch into parts of ``count`` samples."""
        pairs = zip(torch.split(self.inputs, count), torch.split(self.gradients, count), strict=True)
        return [replace(self, inputs=x, gradients=g) for x, g in pairs]

    @property
    def _fan_in(self) -> int:
        return self.inputs.shape[1] // self.groups * self.kernel[0] * self.kernel[1]

    def _gram_cost(self) -> int:
        (channels_in, *sides_in), (channels, *sides) = self.inputs.shape[1:], self.gradients.shape[1:]
        pixels_in, pixels = sides_in[0] * sides_in[1], sides[0] * sides[1]
        adding = of_device(COST_OF_ADDING, self.inputs.device)
        passes = pixels_in**2 * (self.kernel[0] + self.kernel[1]) + pixels**2 * 2
        return pixels_in**2 * channels_in + pixels**2 * channels + adding * passes

    def _by_gram_matrices(self) -> tuple[Tensor, Tensor]:
        pixels = max(self.inputs[0, 0].numel(), self.gradients[0, 0].numel())
        parts = self._split(at_a_time(GRAM_ENTRIES, pixels**2, self.inputs.device))
        found, lost = zip(*(part._gram_product() for part in parts), strict=True)
        return torch.cat(found), torch.cat(lost)

    def _gram_product(self) -> tuple[Tensor, Tensor]:
        (height_in, width_in), (height, width) = self.inputs.shape[2:], self.gradients.shape[2:]
        x, g = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (self.inputs, self.gradients))
        of_pixels = (x @ x.mT).view(-1, height_in, width_in, height_in, width_in)
        of_rows = self._slide(of_pixels, 0, height)
        of_patches = self._slide(of_rows, 1, width).view(-1, height * width, height * width)
        return sum_of_products(of_patches.unsqueeze(1), (g @ g.mT).unsqueeze(1), self._fan_in, g.shape[2])

    def _slide(self, gram: Tensor, axis: int, length: int) -> Tensor:
        """Sum a Gram matrix, shape (B, H, W, H, W), over the kernel's offsets along one axis: 0 for rows, 1 for
        columns. The result has ``length`` positions along the axis.
        """
        stride, before = self.stride[axis], gram.shape[1 + axis]
        windows = []
        for k in range(self.kernel[axis]):
            offset = k * self.dilation[axis] - self.padding[axis]
            first, last = max(0, -(offset // stride)), min(length - 1, (before - 1 - offset) // stride)
            if first <= last:
                windows.append(
                    (slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride))
                )
        windows.sort(key=lambda window: window[0].start - window[0].stop)  # the widest first
        shape = list(gram.shape)
        shape[1 + axis] = shape[3 + axis] = length
        whole = bool(windows) and windows[0][0] == slice(0, length)
        result = torch.empty(shape, dtype=gram.dtype, device=gram.device) if whole else gram.new_zeros(shape)
        for position, (to, of) in enumerate(windows):
            source = gram[:, of, :, of] if axis == 0 else gram[:, :, of, :, of]
            target = result[:, to, :, to] if axis == 0 else result[:, :, to, :, to]
            if whole and position == 0:
                target.copy_(source)
            else:
                target.add_(source)
        return result

    def _one_by_one(self, dtype: torch.dtype | None) -> Tensor:
        dtype = dtype or self.inputs.dtype
        x, g = self.inputs.to(dtype), self.gradients.to(dtype)
        shape = (g.shape[1], x.shape[1] // self.groups, *self.kernel)
        # The backward pass only reads the weight's shape and layout.
        weight = torch.empty(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        found = []
        for one_x, one_g in zip(torch.split(x, 1), torch.split(g, 1), strict=True):
            _, gradient, _ = torch.ops.aten.convolution_backward(
                one_g, one_x, weight, None, self.stride, self.padding, self.dilation, False, (0, 0), self.groups,
                (False, True, False),
            )  # fmt: skip
            found.append(squares(gradient.permute(0, 2, 3, 1).reshape(1, -1, gradient.shape[1])))
        return torch.cat(found)


def zero_padding(layer: nn.Conv1d | nn.Conv2d) -> list[tuple[int, int]]:
    """Return the numbers of zeros that a layer's forward pass adds before and after each axis of its input."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(r // 2, r - r // 2) for r in reach]
    return [(int(p), int(p)) for p in layer.padding]
