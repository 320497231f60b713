"""A classifier with given predictions for the queries of scikit-activeml."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from skactiveml import base

Array = npt.NDArray[Any]


class Given(base.SkactivemlClassifier):  # type: ignore[misc]
    """Predicts what it was made of. The examples are their own numbers, shape (S, 1).

    Args:
        probabilities: shape (S, C).
        features: what a query asks for as embeddings, shape (S, D); None for none.
    """

    def __init__(self, probabilities: Array, features: Array | None = None) -> None:
        super().__init__(classes=list(range(probabilities.shape[1])))
        self.probabilities = probabilities
        self.features = features

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Given:  # noqa: N803
        return self

    def predict_proba(self, X: Array, embed: bool = False) -> Any:  # noqa: N803
        rows = X[:, 0].astype(int)
        found = self.probabilities[rows]
        return (found, self.features[rows]) if embed and self.features is not None else found

    def query(self, strategy: Any, query_size: int, **options: Any) -> Any:
        """Ask a strategy of scikit-activeml for examples, none of which has a label."""
        examples = np.arange(len(self.probabilities), dtype=float)[:, None]
        labels = np.full(len(examples), np.nan)
        return strategy.query(examples, labels, self, fit_clf=False, batch_size=query_size, **options)
