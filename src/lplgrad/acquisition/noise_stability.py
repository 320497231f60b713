"""Noise stability (Li et al. 2024): candidates whose predictions change most, and differently, if weights get noise.

For each of K samples, noise is added to the weights of the reported model. The deviation of a candidate is the change
of its softmax, divided by the Euclidean norm of its softmax without noise. The deviations of all samples in a row
represent the candidate. Greedy k-center on these rows, from the origin, chooses the batch: first the largest deviation,
then the row that is farthest from the origin and from all rows chosen so far. Labelled examples take no part.

The paper adds one direction over all weights, of a length relative to theirs. The official code adds a direction to the
weight of each module, of a length relative to that weight, and gives no noise to biases. The default follows the code,
which produced the published results; ``noise: global`` follows the paper. Many samples and classes make the rows long.
Rows longer than ``projection`` are therefore projected at random, which hardly changes their distances and bounds the
memory. The official code compares the rows themselves, as ``projection: null`` does.

Cost: one forward pass per candidate without noise, and one for each of ``samples`` (30 by default).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from lplgrad.acquisition import Acquisition, Batches, Candidates, Choice
from lplgrad.acquisition.coreset import cover
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lplgrad.recipes import Learner
else:
    torch = lazy("torch")


class Options(Settings):
    """Which noise, and how deviations are compared.

    Attributes:
        noise: ``layerwise`` adds noise to the ``weight`` of each module that has one (convolutions, norms, linear
            layers), also of frozen modules. ``global`` adds one direction to all parameters that training changes.
        scale: the Euclidean norm of the noise, as a fraction of the norm of what it is added to.
        samples: the number K of samples of noise.
        projection: the length r to which rows of K C deviations are projected if they are longer; null for never.
    """

    noise: Literal["layerwise", "global"] = "layerwise"
    scale: Annotated[Number, Field(gt=0, le=1)] = 1e-3
    samples: Count = 30
    projection: Count | None = 512


def deviations(learner: Learner, batches: Batches, options: Options, generator: np.random.Generator) -> Tensor:
    """Measure the relative deviations of the predictions under noise.

    The model has its weights back afterwards, to the bit. In eval mode, passes change no buffer. The passes are in
    float32, as all passes of a query: a deviation of 1e-3 would drown in the rounding of shorter formats.

    Returns:
        float64, shape (S, K C), or (S, r) if projected.

    Raises:
        UserError: the noise is ``layerwise``, and no module of the model has a weight.
    """
    model = learner.reported
    groups = noisy(model, options)
    of_noise, of_projection = generator.spawn(2)  # so that a projection does not change the noise
    still = torch.cat([_softmax(model, inputs) for inputs in batches()])
    norms = still.norm(dim=1, keepdim=True)
    classes = still.shape[1]
    width = options.samples * classes
    length = options.projection if options.projection is not None and options.projection < width else None
    rows = still.new_zeros(len(still), length or width)
    for sample in range(options.samples):
        columns = slice(sample * classes, (sample + 1) * classes)
        matrix = None
        if length is not None:
            matrix = still.new_tensor(of_projection.standard_normal((classes, length)) / math.sqrt(length))
        with added(groups, [noise(group, options.scale, of_noise) for group in groups]):
            start = 0
            for inputs in batches():
                some = slice(start, start + len(inputs))
                start = some.stop
                deviation = (_softmax(model, inputs) - still[some]) / norms[some]
                if matrix is None:
                    rows[some, columns] = deviation
                else:
                    rows[some] += deviation @ matrix
    if not rows.any():
        say("warning: the noise changes no prediction, so the choice follows the order of the pool; raise scale")
    return rows


def noisy(model: nn.Module, options: Options) -> list[list[Tensor]]:
    """Return the tensors of a model that get noise, in groups that have a direction each."""
    if options.noise == "global":
        return [[parameter for parameter in model.parameters() if parameter.requires_grad]]
    groups: list[list[Tensor]] = [
        [parameter] for name, parameter in model.named_parameters() if name.rpartition(".")[2] == "weight"
    ]
    if not groups:
        raise UserError(
            "noise_stability: no module of the model has a parameter named weight; set noise: global in the strategy's "
            "row"
        )
    return groups


def noise(group: Sequence[Tensor], scale: float, generator: np.random.Generator) -> list[Tensor]:
    """Draw a direction uniformly for all tensors of a group together, and scale it to a fraction of their norm.

    Returns:
        A tensor of the same shape for each of the group, float32.
    """
    drawn = [
        torch.from_numpy(generator.standard_normal(tensor.shape, dtype=np.float32)).to(tensor.device)
        for tensor in group
    ]
    factor = scale * _norm(group) / _norm(drawn)
    return [tensor.mul_(factor) for tensor in drawn]


@contextmanager
def added(groups: Sequence[Sequence[Tensor]], noises: Sequence[Sequence[Tensor]]) -> Iterator[None]:
    """Add noise to tensors in place, and put their own values back at the end."""
    pairs = [pair for group, drawn in zip(groups, noises, strict=True) for pair in zip(group, drawn, strict=True)]
    kept = [tensor.detach().clone() for tensor, _ in pairs]
    try:
        for tensor, drawn in pairs:
            tensor.add_(drawn)
        yield
    finally:
        for (tensor, _), before in zip(pairs, kept, strict=True):
            tensor.copy_(before)


def _norm(tensors: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all tensors together."""
    return math.hypot(*(float(tensor.detach().double().norm()) for tensor in tensors))


def _softmax(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the prediction for a batch, float64, shape (B, C)."""
    logits: Tensor = model(inputs)
    return logits.double().softmax(dim=1)


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose by k-center from the origin. The score is the squared distance to the nearest row chosen so far, or to
    the origin."""
    rows: Tensor = candidates["own:deviations"]
    return cover(candidates, rows, rows.new_zeros(1, rows.shape[1]))


ACQUISITION = Acquisition(
    choose=choose,
    needs=lambda options: {"own:deviations": options},
    options=Options,
    measures={"deviations": deviations},
)
