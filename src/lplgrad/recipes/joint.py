"""The joint recipe: a network and a loss prediction module that learns the network's losses (paper, section III-B)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lplgrad import recipes
from lplgrad.machine.registry import lazy
from lplgrad.recipes import LINEAR, Draw, Measured, Recipe
from lplgrad.study.validation import Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")


class Options(Settings):
    """Options of the loss prediction module.

    Attributes:
        lambda_: weight of the pair loss in the total loss (eq. 4); ``lambda`` in a file.
        margin: the pair loss's margin xi (eq. 2).
        detach_after: fraction of epochs after which the pair loss no longer reaches the main model; 0: after the first.
        auxiliary_schedule: the learning rate of the module is ``stepped`` as the main model's, or ``constant``.
    """

    lambda_: Annotated[Number, Field(ge=0, alias="lambda")] = 1.0
    margin: Annotated[Number, Field(ge=0)] = 1.0
    detach_after: Annotated[Number, Field(ge=0, le=1)] = 0.6
    auxiliary_schedule: Literal["stepped", "constant"] = "stepped"


class Learner(recipes.Learner):
    """A network, and the module that predicts its losses."""

    options: Options

    def build(self) -> dict[str, nn.Module]:
        """Build the main model and the module."""
        from lplgrad.recipes._loss_prediction import LossPrediction  # imports torch

        model = self.spec.network(self.spec.classes)
        return {"model": model, "auxiliary": LossPrediction(model.stage_sizes)}

    def step(self, draw: Draw) -> Measured:
        """Take a step on the total loss of a mini-batch (eq. 4)."""
        inputs, labels = draw.labeled()
        # Inclusive, zero-based. Rounded because 0.29 * 100 < 29 in floating point.
        attached = draw.epoch <= round(self.options.detach_after * self.training.epochs, 6)
        with self.autocast():
            outputs = self.model.outputs(inputs, stages=True)
            predicted = self.networks["auxiliary"](
                outputs.stages if attached else [stage.detach() for stage in outputs.stages]
            )
        losses = F.cross_entropy(outputs.logits.float(), labels, reduction="none")
        pairs = pair_loss(predicted.float(), losses, self.options.margin)
        torch.autograd.backward(losses.mean() + self.options.lambda_ * pairs)
        self.optimizers["model"].step(draw.rate)
        stepped = self.options.auxiliary_schedule == "stepped"
        self.optimizers["auxiliary"].step(draw.rate if stepped else self.training.learning_rate)
        return {"loss": (losses.detach().sum(), len(losses)), "pair loss": (pairs.detach(), int(len(losses) > 1))}

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute logits, features and, if they are wanted, predicted losses, shape (B,)."""
        outputs = self.model.outputs(inputs, stages="predicted_loss" in wanted)
        found = {"logits": outputs.logits, "features": outputs.features}
        if "predicted_loss" in wanted:
            found["predicted_loss"] = self.networks["auxiliary"](outputs.stages)
        return found


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


RECIPE = Recipe(
    Learner,
    Options,
    wants=lambda options: frozenset({"stages"}),
    offers=lambda options, backbone: LINEAR | {"predicted_loss"},
    extends="plain",
)
