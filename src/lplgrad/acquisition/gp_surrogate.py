"""A RECONSTRUCTION of "Active Learning Guided by Efficient Surrogate Learners" (An, Park and Kim 2024).

It was built from the abstract alone: nobody published code, and this claims to reproduce no number of the paper. What
the abstract says: a Gaussian process stands beside the network and learns after every single pick, so that choosing a
batch resembles labelling one example after another, and the choice combines exploration with exploitation. All else
here is ours.

The process is a Bayesian linear regression on features psi of an example, with one covariance for all classes. Its mean
is the network's prediction plus what the labelled examples say about the network's errors, so that it equals the
network far from labels. Each pick is added with the class that the network predicts, which moves the mean and lowers
the variance of similar candidates. Then the next pick is that of the highest weighted sum of two ranks:

- exploration: by how much its label would lower the sum of the variances of all candidates and labelled examples (the
  greedy design that BAIT has too);
- exploitation: the entropy of the process's mean, clipped to be a distribution.

Labelled examples of unknown class are predicted, but nothing is learned from them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._fisher import ROWS, SAME, Dense, Design, first_highest, nothing
from lplgrad.acquisition._order import given_back, order_of, ordered
from lplgrad.acquisition._points import normalized
from lplgrad.machine.randomness import stream
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Count, Number, Settings, refuse_changed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

PAIRED = 1000  # candidates whose distances give the width of the radial basis functions, at most
TINY = 1e-300  # stands for 0 where a logarithm or a quotient needs a positive number


class Options(Settings):
    """Options of the process and of the choice.

    Attributes:
        kernel: ``linear`` has the penultimate features, scaled to length 1, and a constant. ``rbf`` has random Fourier
            features (Rahimi and Recht 2007) of radial basis functions of the same, as wide as the median distance.
        random_features: how many of these. Only for ``rbf``.
        regularization: the inverse of the prior variance of the regression's weights.
        noise: the variance of an observation.
        exploration: the weight of exploration, from 0 to 1. The rest is the weight of exploitation.
    """

    kernel: Literal["linear", "rbf"] = "linear"
    random_features: Count = 512
    regularization: Annotated[Number, Field(gt=0)] = 1.0
    noise: Annotated[Number, Field(gt=0)] = 0.1
    exploration: Annotated[Number, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.kernel == "linear":
            refuse_changed(self, "kernel: linear", "random_features")
        return self


class Surrogate:
    """A Gaussian process that learns from one candidate after another.

    Args:
        inputs: psi of the S candidates, float64, shape (S, R).
        predictions: the network's for them, float64, shape (S, C).
        labeled: psi of the labelled examples, float64, shape (L, R).
        known: whether their class is known, shape (L,).
        residuals: one-hot classes minus the network's predictions of those whose class is known, float64, shape (K, C).
        options: of the process.

    Attributes:
        mean: of the process, float64, shape (S, C).

    Raises:
        FloatingPointError: the covariance is not positive definite in float64.
    """

    def __init__(
        self, inputs: Tensor, predictions: Tensor, labeled: Tensor, known: Tensor, residuals: Tensor, options: Options
    ) -> None:
        self.noise = options.noise
        learned = labeled[known]
        precision = learned.T @ learned / options.noise
        precision.diagonal().add_(options.regularization)
        target = (inputs.T @ inputs + labeled.T @ labeled) / (len(inputs) + len(labeled))
        self.design = Design(Dense(inputs[:, None]).scaled(options.noise**-0.5), precision, target)
        weights = self.design.inverse @ (learned.T @ residuals) / options.noise
        self.mean = predictions + inputs @ weights
        self.answers = predictions.argmax(dim=1).tolist()

    def variances(self) -> Tensor:
        """Return the variance of the process at each candidate, float64, shape (S,)."""
        return self.design.own.flatten() * self.noise

    def information(self) -> Tensor:
        """Return by which share a candidate's label would lower the sum of all variances, float64, shape (S,). What
        could be an error of rounding is 0."""
        shares = self.design.gains() / (self.design.inverse * self.design.target).sum()
        return shares.masked_fill(shares <= SAME, 0.0)

    def uncertainty(self) -> Tensor:
        """Return the entropy of the mean, clipped at 0 and scaled to the sum 1, in nats, float64, shape (S,)."""
        parts = []
        for mean in torch.split(self.mean, ROWS):
            clipped = mean.clamp(min=TINY)
            total = clipped.sum(dim=1)
            parts.append(total.log() - (clipped * clipped.log()).sum(dim=1) / total)
        return torch.cat(parts)

    def learn(self, position: int) -> None:
        """Learn that a candidate has the class that the network predicts."""
        error = -self.mean[position]
        error[self.answers[position]] += 1
        self.mean.addr_(self.design.add(position).flatten(), error)


def residuals_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return one-hot labels minus predictions, float64, shape (K, C)."""
    p = logits.double().softmax(dim=1)
    return torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[labels] - p


def inputs_of(features: Tensor, others: Tensor, options: Options, generator: np.random.Generator) -> list[Tensor]:
    """Return psi of the candidates and of other examples.

    Args:
        features: of the candidates in the order of the pool, shape (S, D).
        others: of the other examples, shape (L, D).
        options: the kernel.
        generator: draws the random features.

    Returns:
        Both, float64, shapes (S, R) and (L, R).
    """
    both = [normalized(one) for one in (features, others)]
    if options.kernel == "linear":
        return [torch.cat([one, torch.ones_like(one[:, :1])], dim=1) for one in both]
    size = options.random_features
    frequencies = both[0].new_tensor(generator.standard_normal((features.shape[1], size))) / _width(both[0])
    phases = both[0].new_tensor(generator.uniform(0, 2 * math.pi, size))
    return [math.sqrt(2 / size) * torch.cos(one @ frequencies + phases) for one in both]


def _width(inputs: Tensor) -> float:
    """Return the median distance between candidates, of some that are spread over the pool; 1 if it is 0."""
    some = inputs[:: -(-len(inputs) // PAIRED)].cpu()
    median = float(np.median(torch.pdist(some).numpy())) if len(some) > 1 else 0.0
    return median or 1.0


def ranks(values: Tensor, left: Tensor) -> Tensor:
    """Return the share of those that are ``left`` with a lower value, from 0 to 1, shape (S,). Values that are equal
    up to rounding have one rank.

    Raises:
        FloatingPointError: a value is not finite.
    """
    largest = float(values.abs().amax())
    if not math.isfinite(largest):
        raise FloatingPointError("the surrogate's mean or variance is not finite")
    steps = (values / max(largest, TINY) / SAME).round().where(left, math.inf)
    return torch.searchsorted(steps.sort().values, steps).double() / max(int(left.sum()) - 1, 1)


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the candidates; the score is the weighted sum of the ranks before the first pick.

    Raises:
        FloatingPointError: the covariance is not positive definite, or a number is not finite.
    """
    if not candidates.query_size:
        return nothing(candidates)
    order = order_of(candidates)
    logits, features = (ordered(candidates[need], order) for need in ("logits", "features"))
    generator = stream(candidates.seed, "random features of gp_surrogate", candidates.round_number)
    inputs, labeled = inputs_of(features, candidates["labeled:features"], options, generator)
    predictions = logits.double().softmax(dim=1)
    known = candidates["labeled:labels"] >= 0
    residuals = residuals_of(candidates["labeled:logits"][known], candidates["labeled:labels"][known])
    surrogate = Surrogate(inputs, predictions, labeled, known, residuals, options)
    left = torch.ones(len(order), dtype=torch.bool, device=inputs.device)
    picks: list[int] = []
    scores = None
    for _ in range(candidates.query_size):
        explored, exploited = ranks(surrogate.information(), left), ranks(surrogate.uncertainty(), left)
        utility = options.exploration * explored + (1 - options.exploration) * exploited
        if not picks:
            scores = given_back(utility, order)
        pick = first_highest(utility.where(left, -math.inf))
        left[pick] = False
        picks.append(pick)
        surrogate.learn(pick)
    return Choice(order[picks], scores)


ACQUISITION = Acquisition(
    choose=choose,
    needs=lambda options: dict.fromkeys(("logits", "features", "labeled:logits", "labeled:features", "labeled:labels")),
    options=Options,
)
