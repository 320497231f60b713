"""Perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.backbones._network import Network, Outputs


class Perceptron(Network):
    """Linear layers with ReLU between them.

    Args:
        size: D, the length of a vector.
        hidden: the width of each hidden layer; none for a linear classifier.
        classes: number of classes; None for no head.
        dropout: the probability that training drops a number of a hidden layer.
    """

    def __init__(self, size: int, hidden: Sequence[int], classes: int | None, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [size, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, hidden, strict=False))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.feature_size, self.stage_sizes = sizes[-1], list(hidden)
        self.head = nn.Identity() if classes is None else nn.Linear(sizes[-1], classes)

    def outputs(self, inputs: Tensor, stages: bool = False) -> Outputs:
        """Return all outputs for vectors, shape (B, D)."""
        features, found = inputs, list[Tensor]()
        for layer in self.hidden:
            features = F.relu(layer(self.dropout(features) if found else features))
            found.append(features)
        logits = self.head(self.dropout(features) if found else features)
        return Outputs(logits, features, found if stages else [])
