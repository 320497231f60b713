"""The training loop: the main model alone (recipe ``plain``) or with the loss prediction module (``joint``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.sgd import sgd

from lplgrad.machine.errors import UserError
from lplgrad.rounds.models import global_average
from lplgrad.rounds.networks import Networks
from lplgrad.rounds.transforms import Augment, Normalize, to_tensor
from lplgrad.study.settings import Augmentation, Normalization, Recipe, Training


@dataclass(frozen=True)
class Epoch:
    """The record of an epoch."""

    number: int  # from 1
    loss: float  # mean cross-entropy over the epoch's images
    pair_loss: float | None  # mean over the epoch's batches with a pair; None without an auxiliary module
    learning_rate: float  # of the main model


def pair_loss(predicted: Tensor, losses: Tensor, margin: float) -> Tensor:
    """Return the loss of the loss prediction module (eq. 2 and 3), a scalar.

    The batch is split into the pairs (i, B-1-i). In a batch of odd size the middle sample has no partner. A batch of
    one sample has no pair, and its pair loss is 0.

    Args:
        predicted: predicted losses p, shape (B,).
        losses: the true losses l, shape (B,); no gradient flows to them.
        margin: xi.

    Returns:
        The mean over pairs of ``max(0, -s (p_i - p_j) + xi)``, with s = 1 if l_i > l_j, else -1; a scalar.
    """
    pairs = len(predicted) // 2
    if pairs == 0:
        return predicted.sum() * 0.0
    difference = (predicted - predicted.flip(0))[:pairs]
    losses = losses.detach()
    sign = torch.where((losses > losses.flip(0))[:pairs], 1.0, -1.0)
    return F.relu(margin - sign * difference).mean()


def learning_rate(training: Training, epoch: int) -> float:
    """Return the learning rate of an epoch; epochs count from 0."""
    return training.learning_rate * training.decay ** sum(epoch >= milestone for milestone in training.milestones)


class Optimizer:
    """SGD with momentum and weight decay over one network.

    ``torch.optim.SGD`` does the same, but its constructor imports the compiler: a second for every job of a study.
    """

    def __init__(self, network: nn.Module, training: Training) -> None:
        self.parameters: list[Tensor] = list(network.parameters())
        self.momentum_buffers: list[Tensor | None] = [None] * len(self.parameters)
        self.training = training

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter and clear its gradient."""
        gradients = [parameter.grad for parameter in self.parameters]
        sgd(
            self.parameters,
            gradients,  # type: ignore[arg-type]  # every parameter takes part in every step
            self.momentum_buffers,
            fused=True,
            lr=learning_rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None


@dataclass
class State:
    """A training between two epochs: all that it continues from."""

    networks: Networks
    optimizers: dict[str, Optimizer]  # by the names of the networks
    batches: np.random.Generator
    augmenting: np.random.Generator
    epochs: int
    epoch: int = 0  # the number of finished epochs
    last: Epoch | None = None  # the record of the last of them

    def streams(self) -> dict[str, np.random.Generator]:
        """The random streams by name."""
        return {"batches": self.batches, "augmenting": self.augmenting}


def train(
    networks: Networks,
    images: Tensor,
    labels: Tensor,
    training: Training,
    recipe: Recipe,
    augmentation: Augmentation,
    normalization: Normalization,
    batches: np.random.Generator,
    augmenting: np.random.Generator,
    precision: str = "float32",
    begin: Callable[[State], None] = lambda state: None,
) -> Iterator[Epoch]:
    """Train networks on a labelled set, in place, with new optimisers; each step of the iterator is an epoch.

    Args:
        networks: main model, and the auxiliary module if the recipe has one, on the device of ``images``.
        images: the labelled images, uint8, shape (L, H, W, C).
        labels: their classes, int64, shape (L,).
        training, recipe, augmentation, normalization: the settings.
        batches, augmenting: random streams of the order of the images and of the augmentation.
        precision: ``bfloat16`` for autocast; the caller sets ``tf32``, see ``devices.tf32``.
        begin: receives the state before the first epoch, and may bring it to where an earlier run stopped. Whenever an
            epoch is yielded, the state is the one after it.

    Yields:
        The record of each epoch.

    Raises:
        UserError: the loss is no longer finite.
    """
    device = images.device
    normalize = Normalize(normalization, device)
    augment = Augment(images, augmentation, augmenting)
    optimizers = {name: Optimizer(network, training) for name, network in networks.named().items()}
    main, auxiliary = optimizers["model"], optimizers.get("auxiliary")
    state = State(networks, optimizers, batches, augmenting, training.epochs)
    begin(state)
    counters: dict[nn.BatchNorm2d, Tensor] = {}
    for network in networks.named().values():
        for layer in network.train().modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.num_batches_tracked is not None
                counters[layer] = layer.num_batches_tracked
    for epoch in range(state.epoch, training.epochs):
        # Inclusive, zero-based. Rounded because 0.29 * 100 < 29 in floating point.
        attached = epoch <= round(recipe.detach_after * training.epochs, 6)
        rate = learning_rate(training, epoch)
        order = batches.permutation(len(images))
        # One tensor, because a GPU waits for every copy: positions in the order of the epoch, and their draws.
        plan = to_tensor(np.stack([order, *augment.draw()[:, order]]), device)
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        with_pairs = steps = 0
        for layer in counters:
            layer.num_batches_tracked = None  # else each layer launches a kernel in each step to count the step
        for part in torch.split(plan, training.batch_size, dim=1):
            batch, draws = part[0], part[1:]
            steps += 1
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                stages = networks.model.stages(normalize(augment(batch, draws)))
                logits = networks.model.classify(global_average(stages[-1]))
                predicted = None
                if networks.auxiliary is not None:
                    predicted = networks.auxiliary(stages if attached else [stage.detach() for stage in stages])
            losses = F.cross_entropy(logits.float(), labels[batch], reduction="none")
            loss = losses.mean()
            totals[0].add_(losses.detach().sum())  # not +=, which copies the sum into its place again
            if predicted is not None:
                pairs = pair_loss(predicted.float(), losses, recipe.margin)
                loss = loss + recipe.lambda_ * pairs
                totals[1].add_(pairs.detach())
                with_pairs += len(batch) > 1
            torch.autograd.backward(loss)
            main.step(rate)
            if auxiliary is not None:
                auxiliary.step(rate if recipe.auxiliary_schedule == "stepped" else training.learning_rate)
        for layer, counter in counters.items():
            layer.num_batches_tracked = counter.add_(steps)
        mean_loss, pair_total = totals.tolist()
        mean_loss /= len(images)
        if not (math.isfinite(mean_loss) and math.isfinite(pair_total)):
            raise UserError(
                f"the loss is {mean_loss} after epoch {epoch + 1} of {training.epochs}; lower training.learning_rate"
            )
        state.epoch = epoch + 1
        state.last = Epoch(epoch + 1, mean_loss, pair_total / max(with_pairs, 1) if auxiliary else None, rate)
        yield state.last
