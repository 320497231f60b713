"""The plain recipe: a network trained by cross-entropy on the labelled set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad import recipes
from lplgrad.machine.registry import lazy
from lplgrad.recipes import LINEAR, Draw, Measured, Recipe

if TYPE_CHECKING:
    import torch
    from torch.nn import functional as F
else:
    torch, F = lazy("torch"), lazy("torch.nn.functional")


class Learner(recipes.Learner):
    """One network."""

    def step(self, draw: Draw) -> Measured:
        """Take a step on the mean cross-entropy of a mini-batch."""
        inputs, labels = draw.labeled()
        with self.autocast():
            logits = self.model(inputs)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        torch.autograd.backward(losses.mean())
        self.optimizers["model"].step(draw.rate)
        return {"loss": (losses.detach().sum(), len(losses))}


RECIPE = Recipe(Learner, offers=lambda options, backbone: LINEAR)
