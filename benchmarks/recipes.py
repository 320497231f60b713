"""What each recipe costs, beside the recipe `plain`: seconds to train a round with the same number of epochs.

All recipes of the registry with their defaults, and some with other options. small_resnet, 32x32 in ten classes, crops
and flips, and a pool with three times as many unlabelled examples as labelled ones. Each case starts from the networks
that its last turn left. A recipe that reads the round before is given first weights as that round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Figure, figures, interleave
from benchmarks.training import AUGMENTATION, NORMALIZATION, learner_of, made_up
from lplgrad import recipes
from lplgrad.machine import devices
from lplgrad.machine.randomness import stream
from lplgrad.modalities import image
from lplgrad.rounds.checkpoints import to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.loop import train
from lplgrad.study.settings import Compute, RecipeRow, Training

NAME = "recipes"
BATCH, UNLABELED = 64, 3  # unlabelled examples for each labelled one
# Options with which a recipe is measured beside its defaults, and what they mean. The threshold is above any entropy,
# so that there are as many pseudo-labels as `most` allows.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "joint": {"detached": {"detach_after": 0}},
    "waal": {"as many steps as plain": {"clock": "labeled"}},
    "verips": {
        "as many pseudo-labels as labels, no verifier": {"threshold": 9, "verifier": False},
        "the same, as many steps as plain": {"threshold": 9, "verifier": False, "clock": "labeled"},
    },
}


def run(quick: bool) -> Iterator[Figure]:
    """Seconds of a training in every recipe."""
    device = devices.set_up(Compute(threads=torch.get_num_threads()))
    labeled, epochs = (BATCH, 1) if quick else (256, 5)
    seconds = interleave(cases(labeled, epochs, device), 1 if quick else 5)
    setting = f"small_resnet, 32x32, {labeled} labels in a pool of {(1 + UNLABELED) * labeled:,}, {epochs} epochs"
    yield from figures(NAME, f"{setting}, {device.type}", seconds, "s", "plain")


def cases(labeled: int, epochs: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """The training of a round by what is measured."""
    found: dict[str, Callable[[], object]] = {}
    for name in recipes.registry.names():
        for what, options in {"": dict[str, Any](), **VARIANTS.get(name, {})}.items():
            if "threshold" in options:
                options = {**options, "most": labeled}
            row = RecipeRow.model_validate({"trains": name, **options})
            found[f"{name}, {what}" if what else name] = training(row, labeled, epochs, device)
    return found


def training(row: RecipeRow, labeled: int, epochs: int, device: torch.device) -> Callable[[], object]:
    """A training a call: of all stages and with what the recipe prepares."""
    learner = to_device(learner_of("small_resnet", row), device)
    images, labels = made_up((1 + UNLABELED) * labeled)
    pool, known = images.numpy(), np.arange(labeled)
    settings = Training(epochs=epochs, milestones=[], batch_size=BATCH, learning_rate=0.01)
    view = image.view(AUGMENTATION, NORMALIZATION.mean, NORMALIZATION.std, (32, 32, 3), device)
    examples = images[:labeled].to(device), labels[:labeled].to(device)
    unlabeled = np.arange(labeled, len(pool))

    def draws(number: int) -> Draws:
        streams = partial(stream, 1, round_number=number)
        return Draws(*examples, BATCH, view, streams, pool=pool, unlabeled=unlabeled, labeled=known)

    if recipes.registry.load(row.trains).reads_previous(row.checked_options):
        learner.previous = to_device(learner_of("small_resnet", row), device)
        learner.previous.begin_stage(0, draws(1))
    return lambda: list(train(learner, draws(2), settings))
