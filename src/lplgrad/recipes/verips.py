"""VERIPS (Gilhuber et al. 2022): sure predictions for unlabelled examples are trained on, if a second network agrees.

Round after round, the task model of the round before predicts the examples of the pool. Those whose entropy is below a
threshold get its class as their pseudo-label. A verifier, which never sees a pseudo-label, is trained on the labelled
examples alone. A pseudo-label that it does not predict is dropped. Then the task model is trained on the labelled and
the pseudo-labelled examples. A pseudo-label stays as it was given until the verifier drops it or the example is bought.
Queries and tests use the task model. Labels of the pool are never read.

A training has two stages, the verifier's and the task model's. Each takes all epochs of the settings, with their
learning rates. Round 1 has no round before it and so no pseudo-labels. Its task model trains as ``plain`` does, and its
verifier trains because round 2 may train it on (``init: warm``).

``verifier: false, keep: false`` is the baseline that the paper calls CEAL: all sure predictions of the round before are
trained on, and given anew in each round.

Where this differs from the official code: a training takes its epochs, and does not stop at 99 % training accuracy.
``init: fresh`` starts all layers anew, while the code keeps batch norms. Mini-batches with a single labelled example
keep it. Of the code's measures of certainty only the entropy is here. It predicts the pool without augmentation and in
eval mode, and the pool includes all unlabelled examples, not only the candidates of a query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lplgrad.acquisition.entropy import entropy
from lplgrad.machine.log import say
from lplgrad.machine.registry import lazy
from lplgrad.recipes import LINEAR, Draw, Measured, Recipe, Spec, plain
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")

NONE = -1  # in place of a pseudo-label


class Options(Settings):
    """Options of the pseudo-labels. The defaults are those of the official code for CIFAR-10 with entropy.

    Attributes:
        threshold: a prediction whose entropy in nats is below it becomes a pseudo-label.
        decay: how much the threshold falls from round to round, in nats; below 0 there are no new pseudo-labels.
        verifier: whether a second network verifies all pseudo-labels in each round.
        keep: whether a pseudo-label stays in later rounds. Otherwise each round gives all of them anew.
        weight: of the mean loss of the pseudo-labelled examples, beside that of the labelled ones.
        most: how many pseudo-labels there may be; the least certain new ones are left out. None for no limit.
        clock: an epoch of the task model passes ``all`` labelled and pseudo-labelled examples, in mixed mini-batches;
            or it takes the steps of the ``labeled`` examples, each with as many pseudo-labelled ones in addition.
    """

    threshold: Annotated[Number, Field(ge=0)] = 0.05
    decay: Annotated[Number, Field(ge=0)] = 0.0033
    verifier: bool = True
    keep: bool = True
    weight: Annotated[Number, Field(ge=0)] = 1.0
    most: Count | None = None
    clock: Literal["all", "labeled"] = "all"


class Learner(plain.Learner):
    """The task model, called ``model``, and the verifier.

    Attributes:
        state: ``positions``, int64, shape (U,): the unlabelled examples of the pool, ascending. ``pseudo_labels``,
            int64, shape (U,): their classes, or -1. ``since``, int64, shape (U,): the rounds in which these were given,
            0 without one. ``round``, int64, a scalar: the round.
    """

    options: Options

    def __init__(self, spec: Spec, options: Options) -> None:
        super().__init__(spec, options)
        self.stages = 2 if options.verifier else 1
        # Of this epoch: positions and classes of the pseudo-labelled examples, and what is left to draw, by the clock
        self.positions = self.labels = np.empty(0, dtype=np.int64)
        self.parts: list[Tensor] = []
        self.order: Tensor | None = None

    def build(self) -> dict[str, nn.Module]:
        """Build the two networks."""
        names = ["model", "verifier"] if self.options.verifier else ["model"]
        return {name: self.spec.network(self.spec.classes) for name in names}

    def begin_stage(self, stage: int, draw: Draw) -> None:
        """Give pseudo-labels before the verifier trains, and verify them before the task model trains."""
        if stage == 0:
            self._give(draw)
        else:
            self._verify(draw)

    def _give(self, draw: Draw) -> None:
        positions, number = draw.unlabeled_positions, 1
        labels, since = np.full(len(positions), NONE), np.zeros(len(positions), dtype=np.int64)
        if self.previous is not None and self.previous.state:
            before = {name: tensor.cpu().numpy() for name, tensor in self.previous.state.items()}
            number += int(before["round"])
            if self.options.keep:  # but for those of examples that have been bought since
                _, here, there = np.intersect1d(positions, before["positions"], assume_unique=True, return_indices=True)
                labels[here], since[here] = before["pseudo_labels"][there], before["since"][there]
            kept = int(np.count_nonzero(labels != NONE))
            limit = threshold_of(self.options, number)
            new, classes = self._sure(self.previous.model, draw, np.flatnonzero(labels == NONE), limit, kept)
            labels[new], since[new] = classes, number
            say(f"pseudo-labels: {kept} from the round before, {len(new)} new ones with an entropy below {limit:.4g}")
        device = next(self.model.parameters()).device
        values = {"positions": positions, "pseudo_labels": labels, "since": since, "round": np.array(number)}
        self.state = {name: torch.from_numpy(value.copy()).to(device) for name, value in values.items()}

    def _sure(
        self, model: nn.Module, draw: Draw, places: npt.NDArray[np.int64], limit: float, kept: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return which unlabelled examples, of some, a model predicts with an entropy below a limit, and as what."""
        if limit <= 0:
            return places[:0], places[:0]
        logits = self._logits(model, draw, draw.unlabeled_positions[places])
        entropies = entropy(logits).cpu().numpy()
        sure = np.flatnonzero(entropies < limit)
        if self.options.most is not None:
            sure = sure[np.argsort(entropies[sure], kind="stable")][: max(self.options.most - kept, 0)]
        return places[sure], logits.argmax(dim=1).cpu().numpy()[sure]

    def _verify(self, draw: Draw) -> None:
        labels = self.state["pseudo_labels"]
        held = torch.nonzero(labels != NONE).squeeze(1)
        positions = self.state["positions"][held].cpu().numpy()
        found = self._logits(self.networks["verifier"], draw, positions).argmax(dim=1).to(labels.device)
        dropped = held[found != labels[held]]
        labels.index_fill_(0, dropped, NONE)
        self.state["since"].index_fill_(0, dropped, 0)
        say(f"pseudo-labels: the verifier keeps {len(held) - len(dropped)} of {len(held)}")

    def _logits(self, network: nn.Module, draw: Draw, positions: npt.NDArray[np.int64]) -> Tensor:
        """Predict examples of the pool, in eval mode and without augmentation, in mini-batches; shape (N, C)."""
        network.eval()
        size = self.training.batch_size
        parts = [positions[start : start + size] for start in range(0, len(positions), size)]
        with torch.no_grad():
            found = [network(draw.pool(part)) for part in parts]
        return torch.cat(found) if found else torch.empty(0, self.spec.classes)

    def steps(self, draw: Draw) -> int:
        """Return the number of steps of an epoch: of the task model's by the clock.

        Before a training there are no pseudo-labels. Then it is the highest number that an epoch can take.
        """
        examples, pseudo = draw.labeled_count, 0
        if draw.stage == self.stages - 1 and self.state:
            labels, positions = (self.state[name].cpu().numpy() for name in ("pseudo_labels", "positions"))
            held = labels != NONE
            self.positions, self.labels = positions[held], labels[held]
            self.parts, self.order = [], None
            pseudo = len(self.labels)
        elif draw.stage == self.stages - 1 and draw.newest_count < examples:  # all are new in round 1
            most = self.options.most
            pseudo = draw.unlabeled_count if most is None else min(most, draw.unlabeled_count)
        if self.options.clock == "all":
            examples += pseudo
        return -(-examples // self.training.batch_size)

    def step(self, draw: Draw) -> Measured:
        """Take a step of the verifier, or of the task model on the mean loss of the labelled examples of a mini-batch
        and that of the pseudo-labelled ones.

        Without a pseudo-label, the task model takes the step of the plain recipe.
        """
        if draw.stage < self.stages - 1:
            return self._step("verifier", *draw.labeled("verifier"), 0, draw.rate)
        if not len(self.labels):
            return super().step(draw)
        examples, chosen = self._mixed(draw)
        inputs, labels = [one[0] for one in examples], [one[1] for one in examples]
        if len(chosen):
            inputs.append(draw.pool(self.positions[chosen], augmented=True))
            labels.append(torch.from_numpy(self.labels[chosen]).to(inputs[0].device))
        return self._step("model", torch.cat(inputs), torch.cat(labels), len(chosen), draw.rate)

    def _mixed(self, draw: Draw) -> tuple[list[tuple[Tensor, Tensor]], npt.NDArray[np.int64]]:
        """Draw a mini-batch: one of labelled examples, if there is one in it, and places of pseudo-labelled ones.

        PyTorch's generator, which the loop seeds for each epoch, draws the order. Mixed mini-batches are equally large
        but for one example. Nobody can choose how many pseudo-labels there are, and batch norm has no variance over a
        single example.
        """
        count = len(self.labels)
        if self.options.clock == "labeled":
            examples = draw.labeled()
            wanted = min(len(examples[1]), count)
            left = torch.empty(0, dtype=torch.int64) if self.order is None else self.order
            if len(left) < wanted:
                left = torch.cat([left, torch.randperm(count)])
            chosen, self.order = left[:wanted], left[wanted:]
            return [examples], chosen.numpy()
        if not self.parts:
            order = torch.randperm(count + draw.labeled_count)
            self.parts = list(order.tensor_split(-(-len(order) // self.training.batch_size)))
        part = self.parts.pop(0)
        chosen = part[part < count]
        labeled = len(part) - len(chosen)
        return [draw.labeled(count=labeled)] if labeled else [], chosen.numpy()

    def _step(self, name: str, inputs: Tensor, labels: Tensor, pseudo: int, rate: float) -> Measured:
        """Take a step of a network on examples of which the last ones are pseudo-labelled."""
        with self.autocast():
            logits = self.networks[name](inputs)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        known, others = losses[: len(losses) - pseudo], losses[len(losses) - pseudo :]
        torch.autograd.backward(total_loss(known, others, self.options.weight))
        self.optimizers[name].step(rate)
        measured = {"loss": (known.detach().sum(), len(known))}
        return {**measured, "pseudo-label loss": (others.detach().sum(), pseudo)} if pseudo else measured


def threshold_of(options: Options, number: int) -> float:
    """Return the threshold of a round in nats. Round 2, the first with pseudo-labels, has that of the options."""
    return options.threshold - options.decay * (number - 2)


def total_loss(known: Tensor, pseudo: Tensor, weight: float) -> Tensor:
    """Return the mean of the losses of labelled examples, plus the weighted mean of those of pseudo-labelled ones.

    Not the mean over both: 2 losses of 1 and 126 of 3 give 4 with weight 1. Either may be empty.
    """
    means = [factor * losses.mean() for factor, losses in ((1.0, known), (weight, pseudo)) if len(losses)]
    return torch.stack(means).sum()


RECIPE = Recipe(
    Learner,
    Options,
    offers=lambda options, backbone: LINEAR,
    reads_previous=lambda options: True,
    extends="plain",
)
