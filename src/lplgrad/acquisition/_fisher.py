"""Greedy A-optimal design, which queries by Fisher information and a Gaussian process share.

Example i adds the information V_i^T V_i, where V_i has the shape (K, R). Examples B together have the information
M = M_0 + sum of V_i^T V_i over B. The design lowers tr(M^-1 F) for a target F: it adds examples one after another, each
time the one that lowers the trace most, and may then remove some, each time the one whose removal raises it least.

For each example two matrices are kept, A_i = V_i M^-1 V_i^T and G_i = V_i M^-1 F M^-1 V_i^T, of shape (K, K). To add it
lowers the trace by tr(G_i (I + A_i)^-1), to remove it raises the trace by tr(G_i (I - A_i)^-1). Each step changes all
of them by two products of V with a matrix of shape (R, K). So the time of a step is O(S K^2 R), and memory is O(S K R).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from lplgrad.acquisition import Candidates, Choice
from lplgrad.acquisition._order import given_back, order_of
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

REFRESH = 256  # steps after which everything is computed anew, before errors of rounding add up
SAME = 1e-10  # numbers that differ relatively by less are equal up to rounding
ROWS = 1024  # examples in a block, few enough for the caches of a processor

RowsT = TypeVar("RowsT", bound="Rows")


class Options(Settings):
    """Options of a query by Fisher information.

    Attributes:
        regularization: the multiple of the identity in the information matrix, above 0. The official code of BAIT has
            1, but 0.01 for CIFAR.
    """

    regularization: Annotated[Number, Field(gt=0)] = 1.0


class Rows:
    """The matrices V_i of S examples, float64, shape (S, K, R), however they are stored."""

    @abstractmethod
    def __len__(self) -> int:
        """Return S."""

    @abstractmethod
    def at(self: RowsT, positions: Sequence[int]) -> RowsT:
        """Return the matrices of some examples."""

    @abstractmethod
    def scaled(self: RowsT, factor: float) -> RowsT:
        """Return all matrices times a number."""

    @abstractmethod
    def column(self, position: int) -> Tensor:
        """Return V_i^T of an example, shape (R, K)."""

    @abstractmethod
    def times(self, matrix: Tensor) -> Tensor:
        """Return V_i X of all examples, shape (S, K, n), for a matrix X of shape (R, n)."""

    @abstractmethod
    def within(self, matrix: Tensor) -> Tensor:
        """Return V_i X V_i^T of all examples, shape (S, K, K), for a matrix X of shape (R, R)."""

    @abstractmethod
    def information(self) -> Tensor:
        """Return the sum of V_i^T V_i over all examples, shape (R, R)."""


class Dense(Rows):
    """Matrices that are stored as they are.

    Args:
        values: of any floating type, shape (S, K, R).
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.double()

    def __len__(self) -> int:
        return len(self.values)

    def at(self, positions: Sequence[int]) -> Dense:
        return Dense(self.values[list(positions)])

    def scaled(self, factor: float) -> Dense:
        return Dense(self.values * factor)

    def column(self, position: int) -> Tensor:
        return self.values[position].T

    def times(self, matrix: Tensor) -> Tensor:
        flat = self.values.flatten(0, 1)
        # In this order, the product with a few columns takes half the time on a CPU.
        return (matrix.T @ flat.T).T.reshape(*self.values.shape[:2], -1)

    def within(self, matrix: Tensor) -> Tensor:
        parts = [block @ matrix @ block.mT for block in torch.split(self.values, ROWS)]
        return torch.cat(parts)

    def information(self) -> Tensor:
        flat = self.values.flatten(0, 1)
        return flat.T @ flat


class Design:
    """A set of examples that grows and shrinks, and what each example would change.

    Args:
        rows: V_i of all S examples.
        prior: M_0, float64, shape (R, R).
        target: F, float64, shape (R, R).

    Attributes:
        members: positions of the examples in the set, in the order in which they were added.

    Raises:
        FloatingPointError: a matrix that should be positive definite is not, or a number is not finite.
    """

    def __init__(self, rows: Rows, prior: Tensor, target: Tensor, members: Sequence[int] = ()) -> None:
        self.rows, self.prior, self.target = rows, prior, target
        self.members = list(members)
        self.refresh()

    def refresh(self) -> None:
        """Compute everything anew from the members."""
        self.age = 0
        information = self.prior + self.rows.at(self.members).information() if self.members else self.prior
        self.inverse = _inverse(information)
        self.own = self.rows.within(self.inverse)  # A_i
        self.shared = self.rows.within(self.inverse @ self.target @ self.inverse)  # G_i

    def gains(self) -> Tensor:
        """Return by how much each example lowers the trace if it is added, float64, shape (S,)."""
        return _trace_of_quotient(self.shared, self.own, 1)

    def losses(self) -> Tensor:
        """Return by how much each member raises the trace if it is removed, float64, shape (S,). The values of other
        examples have no meaning."""
        return _trace_of_quotient(self.shared, self.own, -1)

    def add(self, position: int) -> Tensor:
        """Add an example to the set.

        Returns:
            V_i M^-1 V_j^T (I + A_j)^-1 for the new member j, with M and A_j of the set before, shape (S, K, K). An
            observation at j that is off by an error e of shape (K,) moves the prediction V_i w at i by this times e.
        """
        self.members.append(position)
        return self._change(position, 1)

    def remove(self, position: int) -> None:
        """Remove a member from the set."""
        self.members.remove(position)
        self._change(position, -1)

    def _change(self, position: int, sign: int) -> Tensor:
        one = torch.eye(self.own.shape[1], dtype=self.own.dtype, device=self.own.device)
        core = sign * _inverse(one + sign * self.own[position])
        column = self.rows.column(position)
        moved = self.inverse @ column  # M^-1 V_j^T
        target = self.target @ moved
        products = self.rows.times(torch.cat([moved, self.inverse @ target], dim=1))
        by_inverse, by_target = torch.split(products, len(one), dim=2)
        effect = _product(by_inverse, core)
        self.age += 1
        if self.age == REFRESH:
            self.refresh()
            return effect
        self.inverse.addmm_(moved @ core, moved.T, alpha=-1)
        crossed = _product(effect, by_target.mT)
        curved = _product(_product(effect, moved.T @ target), effect.mT)
        self.own -= _product(effect, by_inverse.mT)
        self.shared += curved - crossed - crossed.mT
        return effect


def _inverse(matrix: Tensor) -> Tensor:
    """Return the inverse of a positive definite matrix."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed) or not bool(factor.isfinite().all()):
        raise FloatingPointError("an information matrix is not positive definite and finite in float64")
    inverse: Tensor = torch.cholesky_inverse(factor)
    return inverse


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Return products of square matrices, which are often of size 1."""
    product: Tensor = one * other if one.shape[-1] == 1 else one @ other
    return product


def _trace_of_quotient(over: Tensor, under: Tensor, sign: int) -> Tensor:
    """Return tr(G (I + sign A)^-1) of matrices G and A, shape (S,)."""
    size = under.shape[1]
    if size == 1:
        return (over / (1 + sign * under)).flatten()
    one = torch.eye(size, dtype=under.dtype, device=under.device)
    inverses, _ = torch.linalg.inv_ex(one + sign * under)
    traces: Tensor = (over * inverses.mT).sum(dim=(1, 2))
    return traces


def first_highest(values: Tensor) -> int:
    """Return the position of the highest value; of values that are equal up to rounding, the first.

    Raises:
        FloatingPointError: the highest value is not finite.
    """
    best = float(values.amax())
    if not math.isfinite(best):
        raise FloatingPointError("what decides which example is best is not finite")
    return int((values >= best - SAME * abs(best)).to(torch.uint8).argmax())


class Greedy(NamedTuple):
    """What the greedy design has found."""

    picks: list[int]  # positions, in the order of choice
    alone: Tensor  # by how much each example alone lowers the trace, float64, shape (S,)


def greedy(rows: Rows, prior: Tensor, target: Tensor, count: int, oversample: int) -> Greedy:
    """Choose examples that lower the trace: add ``oversample`` times as many as asked for, and remove the surplus.

    Of equally good examples the first is added, and of equally bad ones the one that was added last is removed.

    Args:
        rows: V_i of the S examples.
        prior: M_0, shape (R, R).
        target: F, shape (R, R).
        count: how many to choose, at most S.
        oversample: at least 1; no more than S examples are added.

    Raises:
        FloatingPointError: see ``Design``.
    """
    design = Design(rows, prior, target)
    alone = design.gains()
    left = torch.ones_like(alone, dtype=torch.bool)
    for step in range(min(oversample * count, len(rows))):
        pick = first_highest((design.gains() if step else alone).where(left, -math.inf))
        left[pick] = False
        design.add(pick)
    added = design.members
    if len(added) == count:
        return Greedy(added, alone)
    del design  # its inverse may need much memory
    # Only the losses of members count from here. The last comes first, because the first of equals is removed.
    design = Design(rows.at(added[::-1]), prior, target, range(len(added))[::-1])
    left = torch.ones_like(left[: len(added)])
    while len(design.members) > count:
        worst = first_highest((-design.losses()).where(left, -math.inf))
        left[worst] = False
        design.remove(worst)
    return Greedy([added[len(added) - 1 - member] for member in design.members], alone)


def choice_by(rows: Rows, labeled: Rows, candidates: Candidates, options: Options, oversample: int) -> Choice:
    """Choose the candidates that, once labelled, leave the model least uncertain (Ash et al. 2021).

    M = regularization I + (sum of labelled + b sum of chosen) / (L + b), and F is the mean over candidates and labelled
    examples.

    Args:
        rows: of the S candidates in the order of the pool, at least one.
        labeled: of the L labelled examples.
        candidates: whose ``query_size`` is b, at least 1.
        options: the regularisation.
        oversample: see ``greedy``.

    Returns:
        The choice; the score is by how much a candidate alone lowers the trace.
    """
    count = candidates.query_size
    known = labeled.information()
    target = (rows.information() + known) / (len(rows) + len(labeled))
    prior = known / (len(labeled) + count)
    prior.diagonal().add_(options.regularization)
    weighted = rows.scaled(math.sqrt(count / (len(labeled) + count)))
    picks, alone = greedy(weighted, prior, target, count, oversample)
    order = order_of(candidates)
    return Choice(order[picks], given_back(alone, order))


def nothing(candidates: Candidates) -> Choice:
    """Choose nothing: the answer to a query of size 0."""
    return Choice(np.empty(0, dtype=np.int64), np.zeros(len(candidates.indices), dtype=np.float32))
