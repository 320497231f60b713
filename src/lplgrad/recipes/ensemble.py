"""Deep ensembles (Beluch et al. 2018): networks that differ in their first weights, order and augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad import recipes
from lplgrad.machine.registry import lazy
from lplgrad.recipes import EVERYTHING, LINEAR, Draw, Measured, Recipe
from lplgrad.study.validation import Count, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from lplgrad.backbones._network import Network
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")


class Options(Settings):
    """Options of the ensemble.

    Attributes:
        members: the number N of networks. An ensemble of one is the recipe ``plain``.
    """

    members: Count = 5


class Learner(recipes.Learner):
    """N networks of one architecture. They train independently by cross-entropy, each in an order of its own."""

    options: Options

    def build(self) -> dict[str, nn.Module]:
        """Build the members. The first is called ``model``, and trains as the model of the recipe ``plain`` does."""
        names = ["model", *(f"member{number}" for number in range(2, self.options.members + 1))]
        return {name: self.spec.network(self.spec.classes) for name in names}

    @property
    def reported(self) -> nn.Module:
        """The mean of the members' softmaxes, as its logarithm; of a single member its logits."""
        from lplgrad.recipes._mean_softmax import MeanSoftmax  # imports torch

        members = list(self.networks.values())
        return members[0] if len(members) == 1 else MeanSoftmax(members)

    def step(self, draw: Draw) -> Measured:
        """Take a step of each member, on a mini-batch of its own. The loss is the members' mean."""
        found: list[Tensor] = []
        for name, network in self.networks.items():
            inputs, labels = draw.labeled("main" if name == "model" else name)
            with self.autocast():
                logits = network(inputs)
            losses = F.cross_entropy(logits.float(), labels, reduction="none")
            torch.autograd.backward(losses.mean())
            self.optimizers[name].step(draw.rate)
            found.append(losses.detach())
        losses = torch.cat(found)
        return {"loss": (losses.sum(), len(losses))}

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute the logits of the members, shape (B, N, C), those of the ensemble, and all features in a row, shape
        (B, N D)."""
        from lplgrad.recipes._mean_softmax import mean_softmax  # imports torch

        networks: list[Network] = list(self.networks.values())  # type: ignore[arg-type]
        outputs = [network.outputs(inputs) for network in networks]
        logits = torch.stack([one.logits for one in outputs], dim=1)
        return {
            "logits": outputs[0].logits if len(outputs) == 1 else mean_softmax(logits),
            "features": torch.cat([one.features for one in outputs], dim=1),
            "member_logits": logits,
        }


def offers(options: Options, backbone: frozenset[str]) -> frozenset[str]:
    """Return what it offers; the mean softmax of several members does not come from a linear head."""
    return (LINEAR if options.members == 1 else EVERYTHING) | {"member_logits"}


RECIPE = Recipe(Learner, Options, offers=offers)
