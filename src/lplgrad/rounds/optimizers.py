"""Optimisers and learning rates.

``torch.optim`` has the same optimisers, but their constructors import the compiler: a second for every job of a study.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from lplgrad.study.settings import Training


class Optimizer(Protocol):
    """What the training loop, the recipes and the progress file know of an optimiser."""

    def step(self, rate: float) -> None:
        """Update the parameters that have a gradient, with a learning rate, and clear their gradients."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimiser's own tensors by name, which each step changes in place."""


class _Optimizer:
    """Parameters, and tensors of the same shapes that the optimiser keeps between steps."""

    def __init__(self, parameters: Iterable[Tensor], *kept: str) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.kept = {name: [torch.zeros_like(one.detach()) for one in self.parameters] for name in kept}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are kept, by kind and position of the parameter."""
        return {f"{name}/{place}": one for name, kept in self.kept.items() for place, one in enumerate(kept)}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the parameters that have a gradient, with a learning rate, and clear their gradients."""
        places = [place for place, parameter in enumerate(self.parameters) if parameter.grad is not None]
        kept = {name: [tensors[place] for place in places] for name, tensors in self.kept.items()}
        parameters = [self.parameters[place] for place in places]
        self.update(parameters, [parameter.grad for parameter in parameters], kept, rate)
        for parameter in parameters:
            parameter.grad = None

    def update(self, parameters: list[Tensor], gradients: list[Any], kept: dict[str, list[Any]], rate: float) -> None:
        """Update parameters in place."""
        raise NotImplementedError


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum and weight decay (L2 penalty), as ``torch.optim.SGD``."""

    def __init__(
        self, parameters: Iterable[Tensor], momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(parameters, *(["momentum"] if momentum else []))
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov

    def update(self, parameters: list[Tensor], gradients: list[Any], kept: dict[str, list[Any]], rate: float) -> None:
        sgd(
            parameters,
            gradients,
            kept.get("momentum", [None] * len(parameters)),
            fused=True,
            lr=rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
        )


class AdamW(_Optimizer):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``; without weight decay it is Adam."""

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float = 0.0) -> None:
        super().__init__(parameters, "mean", "square")
        self.weight_decay = weight_decay
        self.kept["steps"] = [torch.zeros((), device=one.device) for one in self.parameters]

    def update(self, parameters: list[Tensor], gradients: list[Any], kept: dict[str, list[Any]], rate: float) -> None:
        adam(
            parameters,
            gradients,
            kept["mean"],
            kept["square"],
            [],
            kept["steps"],
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )


def optimizer_of(training: Training, parameters: Iterable[Tensor]) -> Optimizer:
    """Return the optimiser that the settings name."""
    if training.optimizer == "adamw":
        return AdamW(parameters, training.weight_decay)
    return SGD(parameters, training.momentum, training.weight_decay, training.nesterov)


def learning_rate(training: Training, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Return the learning rate of a step; epochs and steps count from 0.

    The schedule is ``step`` (times ``decay`` at every milestone), ``cosine`` (to 0 at the end of the last epoch) or
    ``constant``. The warm-up multiplies it by a factor that grows with every step and reaches 1 with the last step of
    ``warmup_epochs`` epochs.
    """
    rate = training.learning_rate
    if training.schedule == "step":
        rate *= training.decay ** sum(epoch >= milestone for milestone in training.milestones)
    elif training.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * (epoch + step / steps) / training.epochs)) / 2
    done = epoch + (step + 1) / steps
    return rate * done / training.warmup_epochs if done < training.warmup_epochs else rate
