"""NCE-Net (Wan et al. 2021): a network whose classes are prototypes, so that it can tell what it has never seen.

The linear head is replaced by prototypes. Each class has a probability P of its own, which falls with the distance to
its prototype. The probabilities of an example do not add up to 1, and all are small if it is far from every prototype.
The binary cross-entropy of all classes trains them. The acquisition function ``nce_net`` labels the examples that are
far from all prototypes (``rejection``), or as near to others as to the nearest one (``confusion``).

The reported logits are log P. The class of the highest logit is the prediction of NCE-Net, but the softmax of the
logits is P divided by the sum over all classes, not P. Entropies, margins and losses of examples in other acquisition
functions refer to this softmax. Gradient norms are not offered, because prototypes are no linear layer.

The official code averages the binary cross-entropies over the classes. With C classes its steps are C times shorter
than those of the sum, too short for the learning rate of a data set, which all recipes share. So the default is the
sum. Even so the network needs more steps than one with a linear head before it predicts better than chance.

The official code takes the most distant of several prototypes of a class. Here it is the nearest one, because an
example is meant to be near one prototype of its class, not near all. The code's clamped square root has huge slopes
near a prototype. Here no root is taken, because P depends on the squared distance. The code trains on from round to
round, as ``init: warm`` does. The weight decay of the data set also applies to prototypes and radii, as in the code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lplgrad.recipes import EVERYTHING, Recipe, _head
from lplgrad.study.validation import Count, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn


class Options(Settings):
    """Options of the head.

    Attributes:
        prototypes: the number of prototypes of each class.
        over_classes: the loss of an example is the ``sum`` of the binary cross-entropies of its classes, or their
            ``mean``, as in the official code. The mean needs a learning rate that is higher by the number of classes.
    """

    prototypes: Count = 1
    over_classes: Literal["sum", "mean"] = "sum"


class Learner(_head.Learner):
    """A backbone, and a head of prototypes."""

    options: Options

    def build_head(self, size: int) -> nn.Module:
        """Build the head."""
        from lplgrad.recipes._prototypes import Prototypes  # imports torch

        return Prototypes(size, self.spec.classes, self.options.prototypes)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum or mean of the binary cross-entropies of each example, in nats, shape (B,)."""
        from lplgrad.recipes._prototypes import binary_losses  # imports torch

        losses = binary_losses(logits, labels)
        return losses.sum(dim=1) if self.options.over_classes == "sum" else losses.mean(dim=1)

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute log P as the logits, features, and rejection and confusion, float64, shape (B,) each."""
        from lplgrad.recipes._prototypes import confusion, rejection  # imports torch

        found = super().predict(inputs, wanted)
        logits = found["logits"]
        return {**found, "rejection": rejection(logits), "confusion": confusion(logits)}


OFFERED = EVERYTHING - {"gradient_norms"} | {"rejection", "confusion"}
RECIPE = Recipe(Learner, Options, offers=lambda options, backbone: OFFERED)
