"""Split examples into a training pool and a test set, with the classes in proportion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lplgrad.machine.errors import UserError

Indices = npt.NDArray[np.int64]


def stratified_split(
    labels: Indices, classes: list[str], test_images: int, split_seed: int, key: str = "test_images"
) -> tuple[Indices, Indices]:
    """Draw a test set. Return the indices of the training pool and of the test set, both ascending.

    ``labels`` has shape (N,), and ``key`` names the option for the size of the test set. Raise UserError if one of the
    two sets cannot contain every class.
    """
    from sklearn.model_selection import train_test_split  # slow, and the Snakefile imports this module

    counts = np.bincount(labels, minlength=len(classes))
    lonely = np.flatnonzero(counts < 2)
    if len(lonely):
        raise UserError(
            f"class {classes[lonely[0]]!r} has {counts[lonely[0]]} example(s), but a split needs two or more of "
            "each; add some, remove the class, or provide a training pool and a test set of your own"
        )
    if not len(classes) <= test_images <= len(labels) - len(classes):
        raise UserError(
            f"{key}: {test_images} of {len(labels)} examples in {len(classes)} classes; a split needs at least one "
            "example of each class on either side"
        )
    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_images, stratify=labels, random_state=split_seed
    )
    return np.sort(train), np.sort(test)
