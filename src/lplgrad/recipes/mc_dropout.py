"""MC dropout (Gal and Ghahramani 2016): a network with dropout before its head, whatever its backbone.

Queries with ``samples: dropout`` (``bald``, ``variation_ratio``) pass candidates several times with dropout. With this
recipe they work on any backbone. A backbone's own option ``dropout`` offers the same passes to all strategies of a data
set, while this recipe adds dropout to some strategies alone. If both are set, both drop.

Gal and Ghahramani, and Beluch et al. (2018), whose arm MC-Dropout this is, predict with the mean softmax of the passes.
Here the prediction that is tested, and that other scores read, is that of one pass without dropout, as is usual for a
network with dropout. It approximates the mean, needs no random numbers, and gradient norms can differentiate it.
``bald`` and ``variation_ratio`` compute the mean over passes themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lplgrad.machine.registry import lazy
from lplgrad.recipes import LINEAR, Recipe, _head
from lplgrad.study.validation import Number, Settings

if TYPE_CHECKING:
    from torch import nn
else:
    nn = lazy("torch.nn")


class Options(Settings):
    """Options of the dropout.

    Attributes:
        rate: the probability that training, and each pass of a query, drops a feature before the head.
    """

    rate: Annotated[Number, Field(gt=0, lt=1)] = 0.5


class Learner(_head.Learner):
    """A backbone, and a linear head behind dropout. They train by cross-entropy."""

    options: Options

    def build_head(self, size: int) -> nn.Module:
        """Build the head."""
        return nn.Sequential(nn.Dropout(self.options.rate), nn.Linear(size, self.spec.classes))


RECIPE = Recipe(Learner, Options, offers=lambda options, backbone: LINEAR | {"stochastic_logits"}, extends="plain")
