"""A longer plain training: the baseline for recipes whose epochs take more steps than those of the recipe ``plain``.

WAAL and VERIPS take more steps of the optimiser than plain training on the same labels, and steps alone raise the
accuracy. A fair baseline takes as many, for example random labelling with this recipe. All else is as in ``plain``: an
epoch passes the labelled examples again and again, each time in a new order.

- For ``waal`` with ``clock: pool``: the default, ``examples: pool``. The network takes the same number of steps.
- For ``verips`` with ``clock: all``: ``examples: n``, where n is the number of labelled and pseudo-labelled examples.
  The log of its trainings says how many there are. It differs from round to round, so take the mean over the rounds.
"""

from __future__ import annotations

from typing import Literal

from lplgrad.recipes import LINEAR, Draw, Recipe, plain
from lplgrad.study.validation import Count, Settings


class Options(Settings):
    """How long an epoch is.

    Attributes:
        examples: how many labelled examples an epoch passes, with repetitions: a number, or as many as the ``pool`` has
            unlabelled ones. If there are more labelled examples, it passes all of them once.
    """

    examples: Count | Literal["pool"] = "pool"


class Learner(plain.Learner):
    """One network."""

    options: Options

    def steps(self, draw: Draw) -> int:
        """Return the number of steps of an epoch, each of a mini-batch."""
        examples = draw.unlabeled_count if self.options.examples == "pool" else self.options.examples
        return -(-max(examples, draw.labeled_count) // self.training.batch_size)


RECIPE = Recipe(Learner, Options, offers=lambda options, backbone: LINEAR)
