"""BAIT (Ash et al. 2021): candidates whose labels would most lower the expected error of the last layer.

The Fisher information of an example is that of the last layer's weights, for a class drawn from the prediction p and
penultimate features h: (diag(p) - p p^T) x h h^T, with a Kronecker product. BAIT makes the inverse of the chosen
information small where the information of all examples is large. It adds twice as many candidates as it needs, and then
removes half of them.

``binary`` is the fast form of Huseljic et al. (2024, "Fast Fishing"). It asks only whether the most likely class, of
probability p, is right: p (1 - p) h h^T. In their experiments on images it is as good as the full form. Time is
O(S D) a step, and memory is O(S D). For C classes, the ``full`` form takes O(S C^2 D + C^3 D^2) a step and
O(S D + S C^2 + C^2 D^2).

The weights are those of the official code: b / (L + b) for each of the b chosen candidates, and L / (L + b) for the
mean over the L labelled examples. So a chosen candidate counts b times as much as a labelled example. The code leaves
out the last layer's bias, which ``bias`` adds. Labelled examples count even if their class is unknown.

Departures: the official code computes in float32, here it is float64. Its target is the mean over the whole pool, here
over the candidates and the labelled examples. The package of the binary form, dal-toolbox, sums the means of batches
where BAIT has one mean, so that labelled examples count too much. Here it is the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from lplgrad.acquisition import Acquisition, Candidates, Choice, _fisher
from lplgrad.acquisition._fisher import ROWS, Dense, Rows, choice_by, nothing
from lplgrad.acquisition._order import order_of, ordered
from lplgrad.acquisition._residuals import binary_variance
from lplgrad.machine.errors import UserError
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Count, Number, refuse_changed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


class Options(_fisher.Options):
    """Which information, and how the greedy choice goes.

    Attributes:
        form: ``binary`` needs memory for D x D matrices, ``full`` for (C D) x (C D) ones.
        oversample: candidates that are added for each one that is kept. With 1 none is removed.
        bias: whether the last layer's bias counts as a weight of a feature that is always 1.
        memory_gb: what the full form may need. If it needs more, the query is refused. In 10^9 bytes.
    """

    form: Literal["binary", "full"] = "binary"
    oversample: Count = 2
    bias: bool = False
    memory_gb: Annotated[Number, Field(gt=0)] = 8.0

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.form == "binary":
            refuse_changed(self, "form: binary", "memory_gb")
        return self


class LastLayer(Rows):
    """V_i = B_i x h_i^T, with a Kronecker product, for matrices B_i of shape (C, C) and features h_i of shape (D,).

    A row of V_i is a gradient with respect to the weights of the last layer, class after class, so R = C D.

    Args:
        factors: B_i, float64, shape (S, C, C).
        features: h_i, float64, shape (S, D).
    """

    def __init__(self, factors: Tensor, features: Tensor) -> None:
        self.factors, self.features = factors, features

    def __len__(self) -> int:
        return len(self.features)

    def at(self, positions: Sequence[int]) -> LastLayer:
        return LastLayer(self.factors[list(positions)], self.features[list(positions)])

    def scaled(self, factor: float) -> LastLayer:
        return LastLayer(self.factors * factor, self.features)

    def column(self, position: int) -> Tensor:
        return torch.kron(self.factors[position].T.contiguous(), self.features[position][:, None])

    def times(self, matrix: Tensor) -> Tensor:
        classes, width = self.factors.shape[1], self.features.shape[1]
        by_feature = matrix.reshape(classes, width, -1).transpose(0, 1).flatten(1)  # (D, C n)
        parts = [
            factors @ (features @ by_feature).reshape(len(features), classes, -1)
            for factors, features in self._blocks(self.factors)
        ]
        return torch.cat(parts)

    def within(self, matrix: Tensor) -> Tensor:
        classes, width = self.factors.shape[1], self.features.shape[1]
        blocks = matrix.view(classes, width, classes, width)
        parts = []
        for factors, features in self._blocks(self.factors):
            found = torch.empty_like(factors)
            for one in range(classes):
                for other in range(one + 1):  # the matrix is symmetric
                    found[:, one, other] = ((features @ blocks[one, :, other]) * features).sum(dim=1)
                    found[:, other, one] = found[:, one, other]
            parts.append(factors @ found @ factors.mT)
        return torch.cat(parts)

    def information(self) -> Tensor:
        classes, width = self.factors.shape[1], self.features.shape[1]
        weights = self.factors.mT @ self.factors
        found = self.features.new_zeros(classes, width, classes, width)
        for one in range(classes):
            for other in range(one + 1):
                for weight, features in self._blocks(weights[:, one, other]):
                    found[one, :, other] += (features * weight[:, None]).T @ features
                if one != other:  # PyTorch refuses to copy a matrix of a single number onto itself
                    found[other, :, one] = found[one, :, other].T
        return found.view(classes * width, classes * width)

    def _blocks(self, beside: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some examples at a time, their rows of a tensor and their features."""
        return zip(torch.split(beside, ROWS), torch.split(self.features, ROWS), strict=True)


def binary_rows(logits: Tensor, features: Tensor) -> Dense:
    """Return sqrt(p (1 - p)) h for the probability p of the most likely class, shape (S, 1, D)."""
    return Dense((binary_variance(logits).sqrt()[:, None] * features.double())[:, None])


def full_rows(logits: Tensor, features: Tensor) -> LastLayer:
    """Return sqrt(p_c) (e_c - p) x h^T for each class c, which is the square root of its probability times the gradient
    of its log-probability, shape (S, C, C D)."""
    p = logits.double().softmax(dim=1)
    slopes = torch.eye(p.shape[1], dtype=p.dtype, device=p.device) - p[:, None]
    return LastLayer(p.sqrt()[:, :, None] * slopes, features.double())


def bytes_of_full(examples: int, classes: int, width: int) -> int:
    """Return the bytes that the full form needs, for the S candidates and L labelled ``examples``."""
    size = classes * width
    return 8 * (8 * size**2 + examples * (2 * width + 8 * classes**2))


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the candidates; the score is by how much a candidate alone lowers the trace.

    Raises:
        UserError: the full form needs more memory than is allowed.
        FloatingPointError: an information matrix is not positive definite, or a number is not finite.
    """
    if not candidates.query_size:
        return nothing(candidates)
    order = order_of(candidates)
    inputs = [
        (logits, _with_bias(features) if options.bias else features)
        for logits, features in (
            (ordered(candidates["logits"], order), ordered(candidates["features"], order)),
            (candidates["labeled:logits"], candidates["labeled:features"]),
        )
    ]
    if options.form == "full":
        classes, width = inputs[0][0].shape[1], inputs[0][1].shape[1]
        needed = bytes_of_full(sum(len(logits) for logits, _ in inputs), classes, width) / 1e9
        if needed > options.memory_gb:
            raise UserError(
                f"acquisition bait: memory_gb: form: full needs {needed:.1f} GB for {classes} classes and {width} "
                f"features, but {options.memory_gb:g} GB are allowed; write form: binary, or raise memory_gb"
            )
    rows_of = full_rows if options.form == "full" else binary_rows
    rows, labeled = (rows_of(*one) for one in inputs)
    return choice_by(rows, labeled, candidates, options, options.oversample)


def _with_bias(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


ACQUISITION = Acquisition(
    choose=choose,
    needs=lambda options: dict.fromkeys(("logits", "features", "labeled:logits", "labeled:features")),
    wants=lambda options: frozenset({"linear_head"}),
    options=Options,
)
