"""scikit-learn's handwritten digits: 1,797 grey scans of 8x8 pixels, part of the library (UCI, Kaynak 1998)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lplgrad.datasets import Prepared, Size, Source
from lplgrad.datasets._split import stratified_split
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.study.validation import Settings

IMAGES = 1797


class Options(Settings):
    """How the scans are split.

    Attributes:
        test_images: how many scans are held out, drawn at random with the classes in proportion.
        split_seed: the seed of that draw.
    """

    test_images: Annotated[int, Field(ge=10, le=IMAGES - 10)] = 597
    split_seed: Annotated[int, Field(ge=0)] = 0


def prepare(options: Options, downloads: Path) -> Prepared:
    """Read the scans and split them."""
    import sklearn.datasets  # slow, and the Snakefile imports this module

    digits = sklearn.datasets.load_digits()
    classes = [str(name) for name in digits.target_names]
    # Grey levels 0 to 16 become 0 to 255.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    train, test = (
        Examples(images[part], labels[part])
        for part in stratified_split(labels, classes, options.test_images, options.split_seed)
    )
    provenance = {"from": "sklearn.datasets.load_digits", "scikit-learn": sklearn.__version__}
    return Prepared(train, test, classes, provenance)


def size(options: Options, downloads: Path) -> Size:
    """Return the size, which the options determine."""
    return Size((8, 8, 1), 10, IMAGES - options.test_images, options.test_images)


SOURCE = Source(prepare, Options, pool_size=lambda options: IMAGES - options.test_images, size=size)
