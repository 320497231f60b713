"""A backbone with a head of the recipe's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad import recipes
from lplgrad.machine.registry import lazy
from lplgrad.recipes import Draw, Measured

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
else:
    torch, nn, F = lazy("torch"), lazy("torch.nn"), lazy("torch.nn.functional")


class Learner(recipes.Learner):
    """The data set's backbone without a head, ``model``, and a ``head`` that makes logits of its features.

    The backbone gets the first weights that it has with a head. The head has a random stream of its own.
    """

    def build(self) -> dict[str, nn.Module]:
        """Build the backbone and the head."""
        model = self.spec.network(None)
        return {"model": model, "head": self.build_head(model.feature_size)}

    def build_head(self, size: int) -> nn.Module:
        """Build the module from features, shape (B, size), to logits, shape (B, C)."""
        raise NotImplementedError

    @property
    def reported(self) -> nn.Module:
        """The backbone and the head in a row."""
        return nn.Sequential(self.model, self.networks["head"])

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, shape (B,), from float32 logits, shape (B, C), and classes, shape (B,)."""
        return F.cross_entropy(logits, labels, reduction="none")

    def step(self, draw: Draw) -> Measured:
        """Take a step of both networks on the mean loss of a mini-batch."""
        inputs, labels = draw.labeled()
        with self.autocast():
            logits = self.networks["head"](self.model(inputs))
        losses = self.losses(logits.float(), labels)
        torch.autograd.backward(losses.mean())
        for optimizer in self.optimizers.values():
            optimizer.step(draw.rate)
        return {"loss": (losses.detach().sum(), len(losses))}

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute the logits of the head, and the features that it reads."""
        features = self.model.outputs(inputs).features
        return {"logits": self.networks["head"](features), "features": features}
