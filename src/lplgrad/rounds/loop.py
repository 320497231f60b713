"""The training loop. It knows no recipe: the learner says what an epoch and a step are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import torch_seed
from lplgrad.recipes import Learner
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.optimizers import learning_rate, optimizer_of
from lplgrad.study.settings import Training


@dataclass(frozen=True)
class Epoch:
    """The record of an epoch."""

    number: int  # from 1, over all stages
    means: dict[str, float]  # of what the recipe's steps measured: "loss" and others
    learning_rate: float  # of the last step


@dataclass
class State:
    """A training between two epochs: all that it continues from."""

    learner: Learner
    draws: Draws
    epochs: int  # of all stages
    epoch: int = 0  # the number of finished epochs
    last: Epoch | None = None  # the record of the last of them


def train(
    learner: Learner,
    draws: Draws,
    training: Training,
    precision: str = "float32",
    begin: Callable[[State], None] = lambda state: None,
) -> Iterator[Epoch]:
    """Train a learner's networks in place, with new optimisers; each step of the iterator is an epoch.

    Args:
        learner: of the recipe; its networks are on the device of the draws.
        draws: the examples.
        training: the settings.
        precision: ``bfloat16`` for autocast; the caller sets ``tf32``, see ``devices.tf32``.
        begin: receives the state before the first epoch, and may bring it to where an earlier run stopped. Whenever an
            epoch is yielded, the state is the one after it.

    Yields:
        The record of each epoch.

    Raises:
        UserError: a mean is no longer finite.
    """
    device = draws.device
    autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    learner.begin(training, lambda network: optimizer_of(training, network.parameters()), autocast)
    learner.begin_stage(0, draws)
    state = State(learner, draws, learner.stages * training.epochs)
    begin(state)
    for done in range(state.epoch, state.epochs):
        sums, counts = dict[str, Tensor](), dict[str, int]()
        draws.stage, epoch = divmod(done, training.epochs)
        if draws.stage and not epoch:
            learner.begin_stage(draws.stage, draws)
        draws.begin_epoch(epoch)
        steps = learner.steps(draws)
        # The last stage draws as a training without stages does.
        before = f" of stage {draws.stage}" if draws.stage < learner.stages - 1 else ""
        with _modules_draw(draws, f"modules in epoch {epoch}{before}"):
            for step in range(steps):
                draws.progress = (epoch + step / steps) / training.epochs
                draws.rate = learning_rate(training, epoch, step, steps)
                for name, (value, count) in learner.step(draws).items():
                    if name not in sums:
                        sums[name] = torch.zeros((), dtype=torch.float64, device=device)
                    sums[name].add_(value)  # not +=, which copies the sum into its place again
                    counts[name] = counts.get(name, 0) + count
        if not steps and state.last is not None:
            break
        if "loss" not in sums:
            raise ValueError("a recipe must take a step in its first epoch, and each epoch must measure a loss")
        totals = torch.stack(list(sums.values())).tolist()  # one copy, because a GPU waits for every copy
        means = {name: total / max(counts[name], 1) for name, total in zip(sums, totals, strict=True)}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise UserError(
                    f"the {name} is {mean} after epoch {done + 1} of {state.epochs}; lower the learning rate "
                    "(training.learning_rate, or an option of the recipe or the acquisition function)"
                )
        state.epoch, state.last = done + 1, Epoch(done + 1, means, draws.rate)
        yield state.last
    learner.end(draws)


@contextmanager
def _modules_draw(draws: Draws, purpose: str) -> Iterator[None]:
    """Seed PyTorch's own generators, from which dropout and the like draw, for a purpose, and restore them."""
    with torch.random.fork_rng([draws.device] if draws.device.type == "cuda" else []):
        torch.manual_seed(torch_seed(draws.new_stream(purpose)))
        yield
