"""The learner of an acquisition function, trained within a query as a round trains the learner of its recipe."""

from __future__ import annotations

from typing import Any

import numpy as np

from lplgrad import acquisition
from lplgrad.acquisition import Acquisition
from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import Purpose
from lplgrad.machine.timing import describe
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import Checkpoint, build_learner, first_weights, to_device
from lplgrad.rounds.draws import draws_of
from lplgrad.rounds.files import QUERY_PROGRESS
from lplgrad.rounds.resume import Progress, digest_of
from lplgrad.rounds.round import Round
from lplgrad.rounds.settings import learner_code
from lplgrad.rounds.training import train_all
from lplgrad.study.jobs import QueryJob


def train_side(
    here: Round[QueryJob], function: Acquisition, options: Any, checkpoint: Checkpoint
) -> tuple[Learner, float]:
    """Train the acquisition function's own learner, from new weights.

    Returns:
        The learner, and the seconds that an earlier process trained it.

    Raises:
        UserError: a loss is not finite, or memory is short.
    """
    assert function.side is not None
    arguments, settings = here.arguments, here.settings
    training = settings.training if function.side_training is None else function.side_training(options)
    assert training is not None
    if not len(here.labeled.known):
        raise UserError(f"{arguments.labeled}: every label is unknown (-1); the query trains a network that needs one")

    def stream(purpose: Purpose | str) -> np.random.Generator:
        return here.stream(f"side {purpose}")

    learner = build_learner(function.side, options, checkpoint.about.backbone, here.shape, len(here.data.classes))
    to_device(first_weights(learner, checkpoint.about.backbone, stream), here.device)
    draws = draws_of(here, checkpoint.about.normalization, training.batch_size, stream)
    inputs = [arguments.data / "dataset.json", arguments.labeled, arguments.checkpoint]
    root = acquisition.registry.root(settings.acquisition)
    roots = ["rounds.query.run", root, *learner_code(checkpoint.about.recipe, checkpoint.about.backbone)]
    digest = digest_of([settings.model_dump(), here.files, here.number, here.seed, here.device.type], inputs, roots)
    device = describe(here.device)["device"]
    progress = Progress(here.folder / QUERY_PROGRESS, digest, arguments.progress_seconds, here.wanted, device)
    train_all(learner, draws, training, "float32", progress)  # as all of a query
    return learner, progress.earlier_seconds
