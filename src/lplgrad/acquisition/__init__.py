"""Acquisition functions: one module for each way to query, which defines ``ACQUISITION``.

An acquisition function declares what it needs. The query computes each need once for all candidates, and the function
chooses. Most give each candidate a score: the candidates of highest score are labelled; of equal scores, the lower
index. Others choose a set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lplgrad.machine.registry import Registry
from lplgrad.study.validation import NoOptions, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from lplgrad.recipes import Learner, Spec
    from lplgrad.study.settings import Training

Batches = Callable[[], "Iterable[Tensor]"]  # starts a pass over the same batches of network input
Scores = npt.NDArray[np.floating[Any]]


class Slope(NamedTuple):
    """The argument of the need ``gradient_norms``: what is differentiated."""

    loss: Callable[[Tensor], Tensor]  # from logits, shape (B, C), to float64 of shape (B,)
    fallback: bool = False  # whether parameters without a fast way are differentiated for one example after another


class Dropout(NamedTuple):
    """The argument of the need ``stochastic_logits``."""

    passes: int  # T, with dropout in each


@dataclass(frozen=True)
class Candidates:
    """A round's S candidates, with what the acquisition function needs and never with a label.

    ``candidates[need]`` is what a need asked for. The query itself computes:

    - ``logits``, float32, shape (S, C), and penultimate ``features``, float32, shape (S, D), of the reported model in
      eval mode;
    - ``gradient_norms``, see ``gradient_norms.GradientNorms``; the argument is ``Slope``;
    - ``stochastic_logits``, float32, shape (S, T, C): logits of T passes with dropout; the argument is ``Dropout(T)``;
    - ``labeled:<need>``: the same for the L labelled examples, and ``labeled:labels``, int64, shape (L,), -1 for an
      unknown class; ``pool:<need>``: the same for all N examples of the pool;
    - ``representation``, float32 or float64, shape (S, D): of the data set's ``features`` file, or the examples
      themselves if they are vectors; otherwise the same as ``features``;
    - ``side:<output>`` of the acquisition function's own learner;
    - ``own:<name>``: what the acquisition function's own measure of that name returns.

    All other needs are outputs that the recipe offers.
    """

    indices: npt.NDArray[np.int64]  # positions in the training pool, int64, shape (S,)
    seed: int  # the trial's seed
    round_number: int  # the round of the query, from 1
    query_size: int  # b, how many will be labelled
    measured: Mapping[str, Any]
    classes: int | None = None  # C, of the data set; None if unknown

    def __getitem__(self, need: str) -> Any:
        return self.measured[need]


class Choice(NamedTuple):
    """What a query chooses."""

    picks: npt.NDArray[np.int64]  # positions among the candidates, in the order of choice, int64, shape (b,)
    scores: npt.NDArray[np.float32] | None = None  # of all candidates, for people, shape (S,); None if there are none


@dataclass(frozen=True)
class Acquisition:
    """An acquisition function. It defines ``score``, ``choose`` or both.

    Raises:
        ValueError: it defines neither, or would score examples alone without ``score``.
    """

    # From the candidates and the options to a score for each candidate, shape (S,), a tensor or an array
    score: Callable[[Candidates, Any], Tensor | Scores] | None = None
    # From the candidates and the options to the choice; None for the candidates of highest score
    choose: Callable[[Candidates, Any], Choice] | None = None
    # From the options to what the query computes first, with the argument of each need
    needs: Callable[[Any], Mapping[str, Any]] = lambda options: {}
    options: type[Settings] = NoOptions  # the options that a strategy's row of the configuration may set
    # Measures of the function's own, by name: from the round's learner in eval mode, the batches, the need's argument
    # and a random stream to a quantity of all examples, shape (S, ...). Networks must be left as they were
    measures: Mapping[str, Callable[[Learner, Batches, Any, np.random.Generator], Any]] = field(default_factory=dict)
    # A learner of the function's own, from what it is built from and the options. The query trains it as a round trains
    # a recipe's learner, with new weights, and then reads its outputs as the needs ``side:<output>``. Without such a
    # need it trains nothing
    side: Callable[[Spec, Any], Learner] | None = None
    # Its settings of training, from the options; None for those of the round
    side_training: Callable[[Any], Training] | None = None
    modality: str | None = None  # the only one that it takes; None for any
    # Whether an example's score depends on the model's outputs for that example only, so that test examples can be
    # scored too
    alone: bool = False
    # From the options to what the recipe must offer besides, which is no quantity: ``linear_head``
    wants: Callable[[Any], frozenset[str]] = lambda options: frozenset()

    def __post_init__(self) -> None:
        if self.score is None and (self.choose is None or self.alone):
            raise ValueError("an acquisition function needs score or choose, and score if it scores examples alone")

    def requires(self, options: Any) -> list[str]:
        """Return all that the recipe and the query must offer: the needs, and what is wanted besides."""
        return [*self.needs(options), *sorted(self.wants(options))]

    def trains_as_round(self, options: Any) -> bool:
        """Return whether a learner of the function's own is trained with the settings of the round's training."""
        return bool(side_outputs(self.needs(options))) and self.side_training is None


registry = Registry[Acquisition](__name__, __path__, "ACQUISITION")


def is_representation(need: str) -> bool:
    """Return whether a need is the representation of candidates or of other examples."""
    return need.rpartition(":")[2] == "representation"


def side_outputs(needs: Iterable[str]) -> frozenset[str]:
    """Return the outputs of the function's own learner that are needed."""
    return frozenset(need.removeprefix("side:") for need in needs if need.startswith("side:"))


def unmet(needs: Iterable[str], offered: Collection[str]) -> list[str]:
    """Return the needs that neither the query nor a recipe's learner, with what it offers, can meet.

    Args:
        needs: names of quantities, and others that ``Acquisition.wants`` returns.
        offered: what the recipe offers.
    """
    names = {need: need.removeprefix("labeled:").removeprefix("pool:") for need in needs}
    names = {need: name for need, name in names.items() if not name.startswith(("side:", "own:"))}
    names = {need: "features" if name == "representation" else name for need, name in names.items()}
    return [need for need, name in names.items() if name not in offered and need != "labeled:labels"]


def scores_of(function: Acquisition, candidates: Candidates, options: Any) -> npt.NDArray[np.float32]:
    """Score the candidates, float32, shape (S,): the precision in which scores are compared and written."""
    assert function.score is not None
    given = function.score(candidates, options)
    return (given if isinstance(given, np.ndarray) else given.cpu().numpy()).astype(np.float32)


def choice_of(function: Acquisition, candidates: Candidates, options: Any) -> Choice:
    """Choose among the candidates.

    Raises:
        FloatingPointError: a score is not a number, or infinite.
        ValueError: a set function has not chosen ``query_size`` different candidates.
    """
    if function.choose is None:
        scores = scores_of(function, candidates, options)
        return Choice(select(scores, candidates.query_size, candidates.indices), scores)
    choice = function.choose(candidates, options)
    picks = np.asarray(choice.picks, dtype=np.int64)
    known = np.unique(picks[(picks >= 0) & (picks < len(candidates.indices))])
    if len(picks) != candidates.query_size or len(known) != len(picks):
        raise ValueError(f"{len(picks)} picks, {len(known)} different ones, instead of {candidates.query_size}")
    if choice.scores is not None:
        _check_finite(choice.scores)
    return Choice(picks, choice.scores)


def select(scores: Scores, query_size: int, indices: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
    """Return the positions of the ``query_size`` highest scores, best first (eq. 9).

    Of equal scores the one of lower index in the pool comes first, whatever the order of the candidates. Without
    ``indices``, these are the positions.

    Raises:
        FloatingPointError: a score is not a number, or infinite.
    """
    _check_finite(scores)
    return np.lexsort((np.arange(len(scores)) if indices is None else indices, -scores))[:query_size]


def _check_finite(scores: Scores) -> None:
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite")
