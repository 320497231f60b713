"""Uncertainty herding (Bae et al. 2025): the candidates that best cover the examples that the model is uncertain of.

It is MaxHerding (``max_herding.py``) in which a candidate counts as much as the model is uncertain of it. Two
quantities adapt to the number of labels. The first is the width of the kernel, which is the smallest distance between
two labelled examples. With many labels it is so small that only the uncertainty counts. The second is the temperature
by which logits are divided. The query trains a second network on 70 % of the labelled examples, as the plain recipe
does, and takes the temperature that minimises its calibration error on the other 30 %. Without labelled examples all
candidates count alike, and the width is 1.

Where the official code departs from the paper or fails, this does the following. The 30 % are drawn at random and
stratified. The code takes the newest labels, which the model before was uncertain of. The width is at least the 1 %
quantile of the distances between candidates and their nearest neighbours, of at most 2,048 candidates that are drawn.
In the code, two labelled examples that are almost copies make the width almost 0. As in the code, the temperature is
one of 1.0, 1.1, ..., 19.9, and the calibration error has as many bins as there are classes. With fewer than two
held-out examples for each class, or of one class only, the temperature is 1. The entropy regulariser of the paper's
comparison belongs to a recipe.

Cost: with the default temperature, a training on 70 % of the labelled examples in each query, and one forward pass of
each network per candidate. With a given temperature, one forward pass per candidate. Without a representation of the
data set, also one forward pass per labelled example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lplgrad.acquisition import Acquisition, Candidates, Choice, entropy, least_confidence, margin
from lplgrad.acquisition._coverage import gaussian, herd
from lplgrad.acquisition._points import BLOCK, NEEDS, pairs, points_of, squared_distances
from lplgrad.machine.log import say
from lplgrad.machine.registry import lazy
from lplgrad.recipes import Draw, Measured, plain
from lplgrad.study.validation import NoOptions, Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from lplgrad.rounds.optimizers import Optimizer
    from lplgrad.study.settings import Training
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")

HELD_OUT = 3, 10  # the fraction of the labelled examples that the second network is not trained on
TEMPERATURES = np.arange(10, 200) / 10
SAMPLE = 2048  # candidates whose nearest neighbours are looked for
SMALLEST = 0.01  # the quantile of these distances


class Options(Settings):
    """What counts as uncertain.

    Attributes:
        uncertainty: the acquisition function whose score it is. It is 1 minus the ``margin`` of the two largest
            probabilities, the ``entropy`` in nats, or 1 minus the largest probability (``least_confidence``).
        temperature: what logits are divided by; None for a calibrated one, for which each query trains a network.
    """

    uncertainty: Literal["margin", "entropy", "least_confidence"] = "margin"
    temperature: Annotated[Number, Field(gt=0)] | None = None


class Learner(plain.Learner):
    """A network that is trained on some of the labelled examples, and the temperature that calibrates it on the others.

    The state has the temperature, and a number that the split is drawn from.
    """

    def begin(
        self, training: Training, optimizer_of: Callable[[nn.Module], Optimizer], autocast: Callable[[], Any]
    ) -> None:
        """Prepare for a training."""
        super().begin(training, optimizer_of, autocast)
        device = next(self.model.parameters()).device
        self.state["split"] = torch.tensor(-1, device=device)
        self.state["temperature"] = torch.tensor(1.0, device=device)
        self.parts: Iterator[Tensor] = iter(())
        self.parts_of = -1  # the epoch that they belong to

    def steps(self, draw: Draw) -> int:
        """Return the number of steps of an epoch. If too few examples are held out, the first step is the last."""
        held_out = held_out_count(draw.labeled_count)
        if held_out < 2 * self.spec.classes:
            return int(draw.epoch == 0)
        return -(-(draw.labeled_count - held_out) // self.training.batch_size)

    def step(self, draw: Draw) -> Measured:
        """Take a step of the plain recipe on examples that are not held out."""
        if self.parts_of != draw.epoch:
            if int(self.state["split"]) < 0:
                self.state["split"].copy_(torch.randint(2**31, ()))
            self.parts, self.parts_of = self._parts(draw), draw.epoch
        chosen = next(self.parts)
        inputs = draw.pool(draw.labeled_positions[chosen.numpy()], augmented=True)
        with self.autocast():
            logits = self.model(inputs)
        losses = F.cross_entropy(logits.float(), draw.labels[chosen.to(inputs.device)], reduction="none")
        torch.autograd.backward(losses.mean())
        self.optimizers["model"].step(draw.rate)
        return {"loss": (losses.detach().sum(), len(losses))}

    def _parts(self, draw: Draw) -> Iterator[Tensor]:
        """Yield mini-batches: places among the labelled examples, each once in a random order, and then again.

        The mini-batches are equally large but for one example, because batch norm has no variance over a single one.
        """
        trained = (~self._held_out(draw)).nonzero()[:, 0]
        while True:
            order = trained[torch.randperm(len(trained))]
            yield from order.tensor_split(-(-len(order) // self.training.batch_size))

    def _held_out(self, draw: Draw) -> Tensor:
        """Return which labelled examples are held out, on the CPU, shape (L,)."""
        return held_out(draw.labels.cpu(), torch.Generator().manual_seed(int(self.state["split"])))

    def end(self, draw: Draw) -> None:
        """Find the temperature, on the examples that are held out."""
        chosen = self._held_out(draw).nonzero()[:, 0]
        classes = len(set(draw.labels.cpu()[chosen].tolist()))
        if len(chosen) < 2 * self.spec.classes or classes < 2:
            say(f"the temperature is 1: too few examples are held out, {len(chosen)} of {classes} classes")
            return
        self.model.eval()
        parts = torch.split(chosen, self.training.batch_size)
        with torch.no_grad():
            logits = torch.cat([self.model(draw.pool(draw.labeled_positions[part.numpy()])) for part in parts])
        found, error = calibrated(logits, draw.labels[chosen.to(logits.device)])
        self.state["temperature"].fill_(found)
        say(f"the temperature is {found:g}: with it the calibration error is {error:.4f} on {len(chosen)} examples")

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Return the temperature for each example, shape (B,): 1 before a training."""
        temperature = self.state.get("temperature", inputs.new_ones(()))
        return {"temperature": temperature.expand(len(inputs))}


def held_out_count(labeled: int) -> int:
    """Return how many of some labelled examples are held out."""
    return labeled * HELD_OUT[0] // HELD_OUT[1]


def held_out(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw which examples are held out: of each class in proportion, up to one example.

    Args:
        labels: classes, int64, shape (L,).
        generator: draws the examples.

    Returns:
        Whether each example is held out, shape (L,).
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.arange(len(labels) + 1) * HELD_OUT[0] // HELD_OUT[1]
    found = torch.zeros(len(labels), dtype=torch.bool)
    found[by_class] = counts[1:] > counts[:-1]
    return found


def calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Return the expected calibration error (Guo et al. 2017) of confidences in bins (lower, upper] of equal width.

    Args:
        logits: float64, shape (N, C).
        labels: int64, shape (N,).
        bins: their number.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    excess = (predicted == labels).double() - confidence
    return float(
        torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, places, excess).abs().sum()
    ) / len(labels)


def calibrated(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the first temperature with the smallest calibration error, and that error; see ``calibration_error``."""
    logits = logits.double()
    errors = [calibration_error(logits / temperature, labels, logits.shape[1]) for temperature in TEMPERATURES]
    best = int(np.argmin(errors))
    return float(TEMPERATURES[best]), errors[best]


def uncertainties(candidates: Candidates, kind: str, temperature: float) -> Tensor:
    """Return the score of each candidate by the acquisition function ``kind``, with its logits divided by a
    temperature, float64, shape (S,)."""
    divided = replace(candidates, measured={"logits": candidates["logits"].double() / temperature})
    match kind:
        case "margin":
            return margin.score(divided, NoOptions())
        case "entropy":
            return entropy.score(divided, entropy.Options())
        case _:
            return least_confidence.score(divided, NoOptions())


def width_of(points: Tensor, labeled: Tensor) -> float:
    """Return the width of the kernel; see the top of this file. Copies of a point are at no distance from it.

    Args:
        points: the candidates, float64, shape (S, D).
        labeled: the labelled examples, float64, shape (L, D).
    """
    smallest = float("inf")
    for _, _, squared in pairs(labeled):
        smallest = min(smallest, float(squared.masked_fill_(squared == 0, float("inf")).amin()))
    if smallest == float("inf"):
        return 1.0
    nearest = []
    sample = points[:: -(-len(points) // SAMPLE)]
    for block in torch.split(sample, BLOCK):
        found = torch.full_like(block[:, 0], float("inf"))
        for others in torch.split(points, BLOCK):
            squared = squared_distances(block, others)
            found = found.minimum(squared.masked_fill_(squared == 0, float("inf")).amin(dim=1))
        nearest.append(found)
    distances = torch.cat(nearest).sort().values
    floor = float(distances[int(SMALLEST * (len(distances) - 1))])
    return math.sqrt(max(smallest, floor if floor < float("inf") else 0.0))


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the candidates that best cover the uncertain ones."""
    given = points_of(candidates)
    if not len(given.labeled):
        return herd(candidates, given, gaussian(1.0))
    width = width_of(given.points, given.labeled)
    temperature = options.temperature
    if temperature is None:
        temperature = float(candidates["side:temperature"].amax())  # all are equal
    weights = uncertainties(candidates, options.uncertainty, temperature)
    say(f"the width of the kernel is {width:.4g}, and the temperature is {temperature:g}")
    return herd(candidates, given, gaussian(width), weights)


def needs(options: Options) -> dict[str, Any]:
    """Return the needs: a second network only if it has to find the temperature."""
    found = {**NEEDS, "logits": None}
    return found if options.temperature is not None else {**found, "side:temperature": None}


ACQUISITION = Acquisition(choose=choose, needs=needs, options=Options, side=Learner)
