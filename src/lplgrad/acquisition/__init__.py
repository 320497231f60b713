"""Acquisition functions: one module each, found by its file's name.

A module defines ``ACQUISITION``, which says what the function needs to be given. The runner computes each need once for
all candidates and calls ``score``; the candidates of highest score are labelled (where scores tie, the lower index). A
function that picks one by one says so with its scores: a pick's score is what it had when it was picked.

No module here imports torch when it is imported: the configuration is checked without it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from lplgrad.study.validation import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from lplgrad.gradient_norms import GradientNorms

Need = Literal["logits", "features", "labeled_features", "predicted_loss", "gradient_norms"]
Scores = npt.NDArray[np.floating[Any]]
# A function that needs no more than these must score each image by what the model says of that image alone.
OF_ONE_IMAGE: frozenset[Need] = frozenset({"logits", "predicted_loss", "gradient_norms"})


@dataclass(frozen=True)
class Candidates:
    """What is known of a round's S candidates. Only what the acquisition function needs is there; no label ever is.

    Attributes:
        indices: positions in the training pool, int64, shape (S,).
        seed: the trial's seed.
        round_number: the round that asks, from 1.
        query_size: b, how many will be labelled.
        logits: of the main model in eval mode, float32, shape (S, C).
        features: penultimate features, float32, shape (S, D).
        labeled_features: the same of the L labelled images, shape (L, D).
        predicted_loss: of the loss prediction module, float32, shape (S,).
        gradient_norms: of the function's own ``loss``, by every candidate alone, each of shape (S,).
    """

    indices: npt.NDArray[np.int64]
    seed: int
    round_number: int
    query_size: int
    logits: Tensor | None = None
    features: Tensor | None = None
    labeled_features: Tensor | None = None
    predicted_loss: Tensor | None = None
    gradient_norms: GradientNorms | None = None


class NoOptions(Settings):
    """An acquisition function without options."""


@dataclass(frozen=True)
class Acquisition:
    """An acquisition function and what it needs.

    Attributes:
        score: from the candidates and the options to a score for each candidate, shape (S,), a tensor or an array.
        needs: what the runner must compute beforehand.
        options: its options, which stand in the strategy's row of the configuration.
        loss: for ``gradient_norms``: from the options to the function of (B, C) logits, in float64, whose value for
            every sample, shape (B,), is differentiated.
    """

    score: Callable[[Candidates, Any], Tensor | Scores]
    needs: frozenset[Need] = field(default_factory=frozenset)
    options: type[Settings] = NoOptions
    loss: Callable[[Any], Callable[[Tensor], Tensor]] | None = None

    @property
    def scores_images_alone(self) -> bool:
        """Whether an image's score follows from what the model says of that image alone, so that it means something
        for an image that is no candidate. (Features are asked for to compare candidates with each other.)
        """
        return bool(self.needs) and self.needs <= OF_ONE_IMAGE


def names() -> list[str]:
    """The acquisition functions there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Acquisition:
    """The acquisition function of a name that ``names`` lists."""
    return cast(Acquisition, importlib.import_module(f"{__name__}.{name}").ACQUISITION)


def scores_of(function: Acquisition, candidates: Candidates, options: Any) -> npt.NDArray[np.float32]:
    """What a function scores, as it is compared and written: float32, shape (S,)."""
    given = function.score(candidates, options)
    return (given if isinstance(given, np.ndarray) else given.cpu().numpy()).astype(np.float32)


def select(scores: Scores, query_size: int) -> npt.NDArray[np.int64]:
    """Positions of the ``query_size`` highest scores, best first; the earlier candidate first where scores tie (eq. 9).

    Raises:
        FloatingPointError: a score is not a number, or infinite.
    """
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite")
    return np.argsort(-scores, kind="stable")[:query_size]
