"""BADGE (Ash et al. 2020): uncertain and diverse candidates, by the seeding of k-means++ on gradient embeddings.

The embedding of a candidate is the gradient of its loss with respect to the weights of the last layer, where its label
is the predicted class. It is the outer product of ``p - e`` (see ``residuals``) and the features. The first pick has
the longest embedding. Every further pick is drawn with a probability proportional to its squared distance to the
nearest pick. Labelled examples take no part.

The embeddings have C D numbers each and are never made: an inner product of two is the product of those of the two
factors. The official code does the same, and like it, the embedding leaves out the bias of the last layer unless an
option adds it. Where the official code draws once more after a repeat, and does not end if all distances are zero, here
a pick has probability zero. So has a copy of a pick, as long as other candidates are left; then the draw is uniform.
Every pick after the first uses one random number. So the picks of a small query are the first picks of a larger one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._order import given_back, order_of, ordered
from lplgrad.acquisition._points import seeded
from lplgrad.acquisition._residuals import residuals
from lplgrad.machine.randomness import stream
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

ROUNDING = 1e-12  # of a squared distance, relative to the squared lengths from which it is computed


class Options(Settings):
    """What the gradient embedding contains.

    Attributes:
        bias: whether the gradient with respect to the bias of the last layer belongs to it. The features then count as
            if they had one more entry, which is 1.
    """

    bias: bool = False


class Embeddings:
    """Outer products of two factors, as points of which only lengths and distances are computed.

    Args:
        residuals: float64, shape (S, C).
        features: float64, shape (S, D).
        bias: whether a feature of 1 is added.

    Attributes:
        squares: squared lengths, float64, shape (S,).
    """

    def __init__(self, residuals: Tensor, features: Tensor, bias: bool = False) -> None:
        self.residuals, self.features, self.constant = residuals, features, float(bias)
        self.squares = residuals.square().sum(dim=1) * (features.square().sum(dim=1) + self.constant)

    def distances(self, point: int) -> Tensor:
        """Return the squared distances of all points to one of them, float64, shape (S,); 0 for its copies."""
        inner = (self.residuals @ self.residuals[point]) * (self.features @ self.features[point] + self.constant)
        sizes = self.squares + self.squares[point]
        distances = sizes - 2 * inner
        return distances.where(distances > ROUNDING * sizes, 0.0)


def seeding(embeddings: Embeddings, uniforms: npt.NDArray[np.float64]) -> list[int]:
    """Pick points as the seeding of k-means++ does, but the longest first.

    Args:
        embeddings: of S points.
        uniforms: a number from [0, 1) for each pick after the first, at most S - 1.

    Returns:
        The picks in order, one more than there are uniforms.
    """
    picks = seeded(int(embeddings.squares.argmax()), embeddings.distances, uniforms)
    left = np.setdiff1d(np.arange(len(embeddings.squares)), picks).tolist()
    return picks + [left.pop(int(uniform * len(left))) for uniform in uniforms[len(picks) - 1 :]]


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose by the seeding, among the candidates in the order of the pool. The score is the embedding's length."""
    order = order_of(candidates)
    logits, features = (ordered(candidates[need], order) for need in ("logits", "features"))
    embeddings = Embeddings(residuals(logits), features.double(), options.bias)
    lengths = given_back(embeddings.squares.sqrt(), order)
    if not candidates.query_size:
        return Choice(np.empty(0, dtype=np.int64), lengths)
    generator = stream(candidates.seed, "seeding of BADGE", candidates.round_number)
    picks = seeding(embeddings, generator.random(candidates.query_size - 1))
    return Choice(order[picks], lengths)


ACQUISITION = Acquisition(
    choose=choose,
    needs=lambda options: {"logits": None, "features": None},
    wants=lambda options: frozenset({"linear_head"}),
    options=Options,
)
