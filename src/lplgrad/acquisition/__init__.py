"""Acquisition functions: one module each, found by its file's name.

A module defines ``ACQUISITION``, which declares what the function needs. The query computes each need once for all
candidates and calls ``score``. The candidates of highest score are labelled; of equal scores, the lower index. A
function that picks one by one gives each pick the score that it had when it was picked.

Importing a module here must not import torch, because the configuration is checked without it.
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
# A function that needs nothing else must score each image by the model's outputs for that image alone.
OF_ONE_IMAGE: frozenset[Need] = frozenset({"logits", "predicted_loss", "gradient_norms"})


@dataclass(frozen=True)
class Candidates:
    """A round's S candidates, with what the acquisition function needs and never with a label."""

    indices: npt.NDArray[np.int64]  # positions in the training pool, int64, shape (S,)
    seed: int  # the trial's seed
    round_number: int  # the round of the query, from 1
    query_size: int  # b, how many will be labelled
    logits: Tensor | None = None  # of the main model in eval mode, float32, shape (S, C)
    features: Tensor | None = None  # penultimate features, float32, shape (S, D)
    labeled_features: Tensor | None = None  # penultimate features of the L labelled images, shape (L, D)
    predicted_loss: Tensor | None = None  # of the loss prediction module, float32, shape (S,)
    # Of the function's own ``loss``, for each candidate alone, each of shape (S,)
    gradient_norms: GradientNorms | None = None


class NoOptions(Settings):
    """An acquisition function without options."""


@dataclass(frozen=True)
class Acquisition:
    """An acquisition function and what it needs."""

    # From the candidates and the options to a score for each candidate, shape (S,), a tensor or an array
    score: Callable[[Candidates, Any], Tensor | Scores]
    needs: frozenset[Need] = field(default_factory=frozenset)  # what the query computes first
    options: type[Settings] = NoOptions  # the options that a strategy's row of the configuration may set
    # For ``gradient_norms``: from the options to a function of logits, shape (B, C), to float64 of shape (B,), whose
    # gradient is computed for every sample
    loss: Callable[[Any], Callable[[Tensor], Tensor]] | None = None

    @property
    def scores_images_alone(self) -> bool:
        """Whether an image's score follows from the model's outputs for that image alone, so that images other than
        candidates can be scored too. (Features serve to compare candidates with each other.)
        """
        return bool(self.needs) and self.needs <= OF_ONE_IMAGE


def names() -> list[str]:
    """List the acquisition functions."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Acquisition:
    """Return the acquisition function of a name in ``names()``."""
    return cast(Acquisition, importlib.import_module(f"{__name__}.{name}").ACQUISITION)


def scores_of(function: Acquisition, candidates: Candidates, options: Any) -> npt.NDArray[np.float32]:
    """Score the candidates, float32, shape (S,): the precision in which scores are compared and written."""
    given = function.score(candidates, options)
    return (given if isinstance(given, np.ndarray) else given.cpu().numpy()).astype(np.float32)


def select(scores: Scores, query_size: int) -> npt.NDArray[np.int64]:
    """Return the positions of the ``query_size`` highest scores, best first; of equal scores the earlier (eq. 9).

    Raises:
        FloatingPointError: a score is not a number, or infinite.
    """
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite")
    return np.argsort(-scores, kind="stable")[:query_size]
