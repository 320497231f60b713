"""Orders in which functions choose, so that the given order of the candidates does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lplgrad.acquisition import Candidates
from lplgrad.machine.randomness import stream
from lplgrad.machine.registry import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


def order_of(candidates: Candidates) -> npt.NDArray[np.int64]:
    """Return the positions of the candidates, sorted by their index in the pool, int64, shape (S,)."""
    return np.argsort(candidates.indices, kind="stable")


def drawn_order(candidates: Candidates) -> npt.NDArray[np.int64]:
    """Return the positions of the candidates in an order that the seed and the round draw, int64, shape (S,).

    It is for functions with many ties, between which the first candidate wins. In the order of the pool, which is often
    that of its classes, the winners would all be of one class.
    """
    draw = stream(candidates.seed, "order of candidates", candidates.round_number)
    return np.argsort(draw.random(int(candidates.indices.max()) + 1)[candidates.indices], kind="stable")


def ordered(rows: Tensor, order: npt.NDArray[np.int64]) -> Tensor:
    """Return a quantity of the candidates in an order, shape (S, ...). If it is in that order, it is not copied."""
    if (order == np.arange(len(order))).all():
        return rows
    return rows[torch.from_numpy(order).to(rows.device)]


def given_back(scores: Tensor, order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return scores of the candidates in the order in which they were given, float32, from scores in another order."""
    found = np.empty(len(order), dtype=np.float32)
    found[order] = scores.cpu().numpy()
    return found
