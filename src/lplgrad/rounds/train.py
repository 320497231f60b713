"""``lplgrad train``: one round of training and its test."""

from __future__ import annotations

import argparse

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json
from lplgrad.machine.log import say
from lplgrad.rounds.files import torch_version
from lplgrad.rounds.round import open_round
from lplgrad.rounds.settings import TRAINING, write_settings
from lplgrad.rounds.stopping import repeat_round
from lplgrad.study.jobs import TrainingJob


def run(arguments: argparse.Namespace) -> None:
    """Train, test and write the results. A trial that has stopped repeats its last round instead."""
    with open_round(arguments, TrainingJob, "train") as here:
        reads = here.settings.recipe.reads_previous and here.number > 1
        if reads != (arguments.checkpoint is not None):
            reason = "the recipe reads the model of the round before" if reads else "this round starts with new weights"
            raise UserError(f"--checkpoint: {'missing' if reads else 'not wanted'}: {reason}")
        if not here.stopped:
            if not len(here.labeled.known):
                raise UserError(f"{arguments.labeled}: every label is unknown (-1); training needs one that is known")
            from lplgrad.rounds.training import train_and_test  # imports torch, which a stopped round does without

            train_and_test(here)
            return
        trained_with = torch_version(arguments.previous)
        metrics = repeat_round(arguments.previous, here.folder, here.number)
        write_settings(here, TRAINING, trained_with)
        write_json(here.folder / "metrics.json", metrics)
        say(f"round {here.number}, seed {here.seed}: the target accuracy was reached before; not trained")
