"""A small learner with first weights, and the examples that it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.machine.devices import to_tensor
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.modalities import View, image
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import Description, build, first_weights, save, tensors_of, to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.loop import Epoch, train
from lplgrad.study.settings import BackboneRow, Normalization, RecipeRow, Training
from tests.conftest import CLASSES, small_images

SMALL = BackboneRow.model_validate({"name": "small_resnet", "width": 4})
PLAIN, JOINT = RecipeRow(trains="plain"), RecipeRow(trains="joint")
TRAINING = Training(epochs=3, batch_size=8, milestones=[])
AUGMENTATION = {"crop_padding": 1, "horizontal_flip": True}
NORMALIZATION = Normalization(mean=[0.5], std=[0.25])
CPU = torch.device("cpu")
LABELED, UNLABELED = 21, 9
STREAMS = partial(stream, 1)
IMAGES = small_images(LABELED + UNLABELED, 5)  # the first have labels


def joint(**options: Any) -> RecipeRow:
    """The joint recipe with options."""
    return RecipeRow.model_validate({"trains": "joint", **options})


def learner_of(
    recipe: RecipeRow = PLAIN,
    backbone: BackboneRow = SMALL,
    shape: Sequence[int] = (1, 8, 8),
    classes: int = CLASSES,
    seed: int = 1,
    round_number: int = 1,
) -> Learner:
    """A learner on the CPU that is ready to train."""
    learner = build(backbone, recipe, shape, classes)
    return to_device(first_weights(learner, backbone, partial(stream, seed, round_number=round_number)), CPU)


def view_of(
    shape: Sequence[int] = (8, 8, 1),
    augmentation: Mapping[str, Any] = AUGMENTATION,
    normalization: Normalization = NORMALIZATION,
    device: torch.device = CPU,
) -> View:
    """The view of images of a stored shape."""
    settings = image.Augmentation.model_validate(augmentation)
    return image.view(settings, normalization.mean, normalization.std, shape, device)


def saved(
    path: Path,
    learner: Learner,
    backbone: BackboneRow = SMALL,
    recipe: RecipeRow = PLAIN,
    shape: Sequence[int] = (1, 8, 8),
    classes: int = CLASSES,
) -> Path:
    """Write a checkpoint of a learner."""
    normalization = Normalization(mean=[0.5] * shape[0], std=[0.25] * shape[0])
    names = [str(number) for number in range(classes)]
    save(path, learner, Description(backbone, recipe, shape, normalization, names))
    return path


def draws_of(
    images: Examples = IMAGES,
    labeled: int = LABELED,
    batch_size: int = 8,
    augmentation: Mapping[str, Any] = AUGMENTATION,
    normalization: Normalization = NORMALIZATION,
    device: torch.device = CPU,
    stream_of: Callable[[Purpose | str], np.random.Generator] = STREAMS,
) -> Draws:
    """The draws of a training on the first ``labeled`` images; the others have no label."""
    return Draws(
        to_tensor(images.inputs[:labeled], device),
        to_tensor(images.labels[:labeled], device),
        batch_size,
        view_of(images.inputs.shape[1:], augmentation, normalization, device),
        stream_of,
        None,
        images.inputs,
        np.arange(labeled, len(images.inputs)),
    )


def run(learner: Learner, training: Training = TRAINING, precision: str = "float32", **draws: Any) -> list[Epoch]:
    """Train a learner, and return the records of its epochs."""
    return list(train(learner, draws_of(batch_size=training.batch_size, **draws), training, precision))


def state(learner: Learner, networks: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Copies of all tensors of a learner by name, or of some of its networks."""
    wanted = None if networks is None else set(networks)
    return {
        name: tensor.clone()
        for name, tensor in tensors_of(learner).items()
        if wanted is None or name.partition("/")[0] in wanted
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states have the same tensors, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def interrupted(items: Iterable[Any], *_: Any) -> Iterator[Any]:
    """In the place of ``log.track``: the user ends the training in its third epoch."""
    for number, item in enumerate(items):
        if number == 2:
            raise KeyboardInterrupt
        yield item
