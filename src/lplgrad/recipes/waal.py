"""WAAL (Shui et al. 2020): a network whose features look alike on labelled and unlabelled examples.

A critic on the features estimates the Wasserstein distance between labelled and unlabelled examples, and the network
lowers it. Labels of the pool are never read.

Where the official code has faults, this follows the paper. The gradient penalty has the sign that lowers it. The weight
of the labelled examples is that of the paper's equation 8, not n_l / n_u. The critic has no sigmoid, whose slope could
not be 1. It has a learning rate of its own instead of one that the trade-off multiplies to nearly 0. The rate is a
tenth of that of the code's optimiser, at which the penalty made the critic diverge in some trainings. Unlabelled
examples pass through batch norm with their own statistics, as in the code, but leave no trace in the running ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lplgrad.machine.registry import lazy
from lplgrad.recipes import LINEAR, Draw, Measured, Recipe, plain
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from lplgrad.rounds.optimizers import Optimizer
    from lplgrad.study.settings import Training
else:
    torch, nn, F = lazy("torch"), lazy("torch.nn"), lazy("torch.nn.functional")


class Options(Settings):
    """Options of the critic and its distance. The defaults are those of the official code, but for the learning rate.

    Attributes:
        trade_off: weight of the distance in the network's loss.
        penalty: weight of the gradient penalty in the critic's loss.
        critic_learning_rate: of the critic, which SGD trains without momentum.
        query_size: b in the weight of the labelled examples; None for the number of labels that were bought last, which
            in round 1 is all of them.
        clock: an epoch passes as many labelled examples as the ``pool`` has unlabelled ones, or as many as there are
            (``labeled``). With ``pool``, compare with a recipe that takes as many steps.
    """

    trade_off: Annotated[Number, Field(ge=0)] = 2e-3
    penalty: Annotated[Number, Field(ge=0)] = 5.0
    critic_learning_rate: Annotated[Number, Field(gt=0)] = 1e-3
    query_size: Count | None = None
    clock: Literal["pool", "labeled"] = "pool"


class Learner(plain.Learner):
    """A network, and a critic of its features."""

    options: Options

    def build(self) -> dict[str, nn.Module]:
        """Build the network and the critic."""
        model = self.spec.network(self.spec.classes)
        critic = nn.Sequential(nn.Linear(model.feature_size, 50), nn.ReLU(), nn.Linear(50, 1), nn.Flatten(0))
        return {"model": model, "critic": critic}

    def begin(
        self, training: Training, optimizer_of: Callable[[nn.Module], Optimizer], autocast: Callable[[], Any]
    ) -> None:
        """Prepare for a training, with an optimiser of the critic's own."""
        from lplgrad.rounds.optimizers import SGD  # imports torch

        super().begin(training, optimizer_of, autocast)
        self.optimizers["critic"] = SGD(self.networks["critic"].parameters())

    def steps(self, draw: Draw) -> int:
        """Return the number of steps of an epoch, by the clock."""
        examples = draw.labeled_count
        if self.options.clock == "pool":
            examples = max(examples, draw.unlabeled_count)
        return -(-examples // self.training.batch_size)

    def step(self, draw: Draw) -> Measured:
        """Take a step of the network, and then one of the critic on the same features.

        If no example is without a label, the network takes the step of the plain recipe.
        """
        if not draw.unlabeled_count:
            return super().step(draw)
        critic = self.networks["critic"]
        inputs, labels = draw.labeled()
        with self.autocast():
            outputs = self.model.outputs(inputs)
            with _own_statistics(self.model):
                others = self.model.outputs(draw.unlabeled(self.training.batch_size)).features.float()
        features = outputs.features.float()
        losses = F.cross_entropy(outputs.logits.float(), labels, reduction="none")
        query_size = self.options.query_size or draw.newest_count
        weight = labeled_weight(draw.labeled_count, draw.unlabeled_count, query_size)
        loss = losses.mean() + self.options.trade_off * distance(critic, features, others, weight)
        torch.autograd.backward(loss, inputs=[one for one in self.model.parameters() if one.requires_grad])
        self.optimizers["model"].step(draw.rate)
        features, others = features.detach(), others.detach()
        penalty = gradient_penalty(critic, features, others)
        torch.autograd.backward(self.options.penalty * penalty - distance(critic, features, others, weight))
        self.optimizers["critic"].step(self.options.critic_learning_rate)
        with torch.no_grad():  # weight 1: a constant that is added to the critic does not count
            apart = distance(critic, features, others, 1.0)
        return {
            "loss": (losses.detach().sum(), len(losses)),
            "distance": (apart, 1),
            "penalty": (penalty.detach(), 1),
        }

    def predict(self, inputs: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Compute logits, features and the critic's output, shape (B,): the higher, the less like labelled examples."""
        outputs = self.model.outputs(inputs)
        critic = self.networks["critic"](outputs.features)
        return {"logits": outputs.logits, "features": outputs.features, "critic": critic}


def labeled_weight(labeled: int, unlabeled: int, query_size: int) -> float:
    """Return the weight C0 of the labelled examples in the distance (Shui et al. 2020, eq. 8).

    A query cannot buy more than there is, so a larger ``query_size`` counts as all that is left, and C0 is 0.
    """
    gamma, alpha = unlabeled / labeled, min(query_size, unlabeled) / labeled
    return (gamma - alpha) / (gamma * (1 + alpha))


def distance(critic: nn.Module, labeled: Tensor, unlabeled: Tensor, weight: float) -> Tensor:
    """Return the mean of the critic over unlabelled features minus ``weight`` times that over labelled ones."""
    found: Tensor = critic(unlabeled).mean() - weight * critic(labeled).mean()
    return found


def gradient_penalty(critic: nn.Module, labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """Return the mean of (|slope| - 1)^2 between pairs of labelled and unlabelled features. PyTorch's generator draws
    where."""
    count = min(len(labeled), len(unlabeled))
    share = torch.rand(count, 1, device=labeled.device)
    between = (share * labeled[:count] + (1 - share) * unlabeled[:count]).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = (slopes.norm(dim=1) - 1).square().mean()
    return penalty


@contextmanager
def _own_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norms use the statistics of a batch without adding them to the running ones."""
    norms: list[Any] = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


RECIPE = Recipe(Learner, Options, offers=lambda options, backbone: LINEAR | {"critic"})
