"""The settings that a round was run with, as JSON next to its results.

``train`` writes ``settings.json`` and ``query`` writes ``query_settings.json``, each with digests of the data, the
labels and the checkpoint that the job was given. ``analysis.departures`` compares these files with the study.

Imports neither torch nor Snakemake.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lplgrad import __version__, acquisition, backbones, modalities, recipes
from lplgrad.datasets.prepared.arrays import checksums
from lplgrad.machine.files import file_digest, write_json
from lplgrad.study.jobs import QueryJob, TrainingJob
from lplgrad.study.settings import BackboneRow, RecipeRow
from lplgrad.study.validation import Settings, input_files, parse

if TYPE_CHECKING:
    from lplgrad.rounds.round import Round

TRAINING, QUERY = "settings.json", "query_settings.json"
RERUN = "delete it and give it to Snakemake as the target, which runs the round again"


def learner_code(recipe: RecipeRow, backbone: BackboneRow) -> list[str]:
    """Return the roots of the code of a learner, for ``digest.code_digest``, which cannot follow registries."""
    modality = backbones.registry.load(backbone.name).modality
    entries = [recipes.registry.root(recipe.trains), backbones.registry.root(backbone.name)]
    return [*entries, modalities.registry.root(modality)]


def named_files(settings: Settings) -> list[str]:
    """List the files that the options of a job name."""
    options: list[Settings] = []
    if isinstance(settings, TrainingJob):
        options = [settings.backbone.checked_options, settings.recipe.checked_options]
    elif isinstance(settings, QueryJob):
        options = [
            parse(acquisition.registry.load(settings.acquisition).options, settings.options, "--settings: options")
        ]
        options.append(settings)
    return [path for one in options for path in input_files(one)]


def digests(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the digests of what a training or a query is given: when it begins, because a file may change later."""
    pool = vars(arguments).get("pool")
    return {
        "dataset": checksums(arguments.data),
        **({"pool": file_digest(pool)} if pool else {}),
        "labeled": file_digest(arguments.labeled),
        "checkpoint": None if arguments.checkpoint is None else file_digest(arguments.checkpoint),
    }


def write_settings(here: Round[Any], name: str, torch: str | None = None) -> None:
    """Write what a training or a query was given, and of a training the digest of its own checkpoint too.

    Args:
        here: the round.
        name: of the file, ``TRAINING`` or ``QUERY``.
        torch: the version of PyTorch; None for the one that is installed.
    """
    values = {
        "round": here.number,
        "seed": here.seed,
        "labels": None if here.stopped else len(here.labeled),
        "target_accuracy": here.arguments.target_accuracy,
        "settings": with_defaults(type(here.settings), here.settings.model_dump(by_alias=True)),
        **here.digests,
        **({"files": here.files} if here.files else {}),
    }
    if name == TRAINING:
        values["trained"] = file_digest(here.folder / "checkpoint.safetensors")
    versions = {"lplgrad": __version__, "torch": torch or version("torch")}
    write_json(here.folder / name, {**values, "versions": versions})


def with_defaults(kind: type[Settings], values: object) -> dict[str, Any]:
    """Return the settings of a job with the defaults of all missing keys, also of a query's options.

    Raises:
        UserError: a key is unknown, or a value is not allowed.
    """
    settings = parse(kind, values, "settings")
    full = settings.model_dump(by_alias=True)
    if isinstance(settings, QueryJob):
        options = acquisition.registry.load(settings.acquisition).options
        full["options"] = parse(options, settings.options, "settings: options").model_dump(by_alias=True)
    return full
