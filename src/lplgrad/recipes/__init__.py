"""Recipes: one module for each way to train a round, which defines ``RECIPE``.

A recipe's learner owns the networks of a round and says what a step of training is. The loop (``rounds.loop``) draws
the examples, averages what the steps measure, and keeps the progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from lplgrad.machine.registry import Registry
from lplgrad.study.validation import NoOptions, Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from lplgrad.backbones._network import Network
    from lplgrad.rounds.optimizers import Optimizer
    from lplgrad.study.settings import Training

# What every recipe offers unless it says otherwise, and what those offer whose logits are a linear function of the
# features and whose prediction is the softmax of these logits
EVERYTHING = frozenset({"logits", "features", "gradient_norms"})
LINEAR = EVERYTHING | {"linear_head"}


class Spec(NamedTuple):
    """What the networks of a learner are built from."""

    network: Callable[[int | None], Network]  # builds the data set's backbone for a number of classes; None: no head
    shape: tuple[int, ...]  # of one input: channels, height and width of an image
    classes: int  # C


class Draw(Protocol):
    """The examples that a step of training may take, on the device, augmented and normalised."""

    stage: int  # of the training (``Learner.stages``), counted from 0
    epoch: int  # of the stage, counted from 0
    progress: float  # the fraction of the stage that is done
    rate: float  # the learning rate that the settings plan for this step
    labeled_count: int  # the number of labelled examples
    newest_count: int  # how many of them were labelled last, for this round
    unlabeled_count: int  # the number of examples of the pool without a label
    # Positions in the pool, int64: of the labelled examples, of those without a label, and of those that were bought
    # and whose class is unknown
    labeled_positions: npt.NDArray[np.int64]
    unlabeled_positions: npt.NDArray[np.int64]
    unknown_positions: npt.NDArray[np.int64]
    labels: Tensor  # the classes of ``labeled_positions``, int64, on the device

    def labeled(self, order: str = "main", count: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the next mini-batch of labelled examples: inputs, shape (B, ...), and classes, int64, shape (B,).

        Each order has random streams of its own. It runs through all labelled examples, and then again in a new order.
        An epoch starts anew.

        Args:
            order: the name of the order.
            count: B, at least 1; None for ``training.batch_size``. The last mini-batch of a run may be smaller.
        """

    def unlabeled(self, count: int) -> Tensor:
        """Return inputs of examples of the pool without a label, shape (count, ...). They are drawn in a random order
        that runs through all of them, and then again."""

    def pool(self, positions: npt.NDArray[np.int64], augmented: bool = False) -> Tensor:
        """Return inputs of the pool's examples at some positions, shape (B,): shape (B, ...)."""


Measured = Mapping[str, "tuple[Tensor, int]"]


class Learner:
    """The networks of a round, and how a step trains them. A recipe's module derives its own from this class.

    Args:
        spec: what the networks are built from.
        options: the recipe's options.

    Attributes:
        networks: by name, built on the meta device; the first weights of each come from a random stream of its own.
        state: further tensors of the checkpoint by name.
        optimizers: by name; they, the networks and the state are in the progress file.
        previous: the learner of the round before, if the recipe reads it (``Recipe.reads_previous``).
        stages: how many stages a training has. Each takes all epochs of the settings, with their learning rates.
    """

    stages = 1

    def __init__(self, spec: Spec, options: Any) -> None:
        self.spec = spec
        self.options = options
        self.networks = self.build()
        self.state: dict[str, Tensor] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.previous: Learner | None = None
        self.training: Training
        self.autocast: Callable[[], AbstractContextManager[object]]

    def build(self) -> dict[str, nn.Module]:
        """Build the networks by name."""
        return {"model": self.spec.network(self.spec.classes)}

    @property
    def model(self) -> Network:
        """The main model."""
        return cast("Network", self.networks["model"])

    @property
    def reported(self) -> nn.Module:
        """The module from inputs to logits, shape (B, C), whose softmax is the prediction that is tested and reported.

        Gradient norms differentiate it.
        """
        return self.model

    def begin(
        self, training: Training, optimizer_of: Callable[[nn.Module], Optimizer], autocast: Callable[[], Any]
    ) -> None:
        """Prepare for a training: make the optimisers, and put the networks into train mode.

        Args:
            training: the settings.
            optimizer_of: makes an optimiser, as the settings say, of a network's parameters.
            autocast: makes a context for the forward passes of a step, which sets their precision.
        """
        self.training, self.autocast = training, autocast
        self.optimizers = {name: optimizer_of(network) for name, network in self.networks.items()}
        for network in self.networks.values():
            network.train()

    def begin_stage(self, stage: int, draw: Draw) -> None:
        """Prepare for a stage of the training, before its first epoch.

        A training that resumes prepares for stage 0 again, and then takes over the saved networks, optimisers and
        state. So stage 0 creates all tensors of the state, and no other stage changes their names or shapes. Random
        draws belong into a step.

        Args:
            stage: counted from 0.
            draw: the examples.
        """

    def steps(self, draw: Draw) -> int:
        """Return the number of steps of the epoch that is about to begin. 0 ends the training.

        An estimate of costs calls it without a training. If the number depends on what a training finds, return the
        highest one then.
        """
        return -(-draw.labeled_count // self.training.batch_size)

    def step(self, draw: Draw) -> Measured:
        """Train for one step.

        Returns:
            By name a sum, a scalar without a graph, and the number of its terms. The loop reports their mean over an
            epoch; "loss" is the one of the round.
        """
        raise NotImplementedError

    def end(self, draw: Draw) -> None:
        """Finish the training, after its last epoch."""

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute the ``wanted`` outputs for a batch of inputs, one row per example. All networks are in eval mode."""
        outputs = self.model.outputs(inputs)
        return {"logits": outputs.logits, "features": outputs.features}


@dataclass(frozen=True)
class Recipe:
    """A way to train."""

    learner: Callable[[Spec, Any], Learner]
    options: type[Settings] = NoOptions  # keys beside ``trains`` in the configuration
    # What the backbone must offer
    wants: Callable[[Any], frozenset[str]] = lambda options: frozenset()
    # What it offers to acquisition functions, from its options and the backbone's offers: outputs of ``predict``,
    # whether gradient norms of its reported prediction can be computed, and whether this comes from a linear head
    offers: Callable[[Any, frozenset[str]], frozenset[str]] = lambda options, backbone: EVERYTHING
    # Whether each round but the first reads the networks of the round before, also with ``init: fresh``
    reads_previous: Callable[[Any], bool] = lambda options: False
    # The recipe that is left when the addition of this one is taken away: the ablation compares the two
    extends: str = ""

    def offered(self, options: Any, backbone: frozenset[str]) -> frozenset[str]:
        """Return all that acquisition functions can need, from the options and what the backbone offers."""
        found = self.offers(options, backbone)
        return found | {"stochastic_logits"} if "dropout" in backbone else found


registry = Registry[Recipe](__name__, __path__, "RECIPE")
