"""What a portion is made of: a study's chains, the files of each, and what they follow from."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lplgrad.errors import UserError
from lplgrad.files import read_json

if TYPE_CHECKING:
    from lplgrad.study import Chain, Layout

FOLDER = Path(".portion")
MIB = 2**20
# What a training and a query write. The first two of each differ between machines: they hold seconds and versions.
TRAINED = ("timing.json", "settings.json", "metrics.json", "test_logits.npy")
QUERIED = ("query_timing.json", "query_settings.json", "scores.csv", "next_labeled.csv", "test_scores.csv")
TIMES = (*TRAINED[:2], *QUERIED[:2])


def read(files: Sequence[str]) -> Layout:
    """The study of config.yaml and what is merged over it."""
    from lplgrad.configuration import read_study
    from lplgrad.study import Layout, check_prepared_datasets

    study = read_study(["config.yaml", *files])
    check_prepared_datasets(study)
    return Layout(study)


def in_turn(layout: Layout) -> dict[str, Chain]:
    """All chains by name, the lowest seed first, so that whole seeds are finished one after another."""
    chains = sorted(layout.chains(), key=lambda chain: chain.seed)
    return {f"{chain.budget}/{chain.dataset}/{chain.strategy}/seed{chain.seed}": chain for chain in chains}


def files_of(layout: Layout, chain: Chain) -> list[str]:
    """All that a chain leaves behind but checkpoints, the start that it shares with others included."""
    last = layout.rounds(chain.budget, chain.dataset)
    found = [layout.labels(chain, 1)]
    for number in range(1, last + 1):
        found += [f"{layout.trained(chain, number)}/{name}" for name in TRAINED]
        if number < last:
            found += [f"{layout.round(chain, number)}/{name}" for name in QUERIED]
        if number in layout.shown_models().get(chain, []):
            observed = ("features.npy", "observed.csv", "confidence.csv")
            found += [f"{layout.round(chain, number)}/{name}" for name in observed]
    return found


def is_complete(layout: Layout, chain: Chain) -> bool:
    """Whether all files of a chain are here."""
    return all(Path(name).exists() for name in files_of(layout, chain))


def identity(layout: Layout, chain: Chain) -> str:
    """Digest of what a chain's results follow from beside the images: its settings and the code.

    It is the same on every machine with one minor version of Python, which is what parses the code.
    """
    from lplgrad.code_digest import code_digest

    strategy = layout.study.strategies[chain.strategy]
    parts = [
        layout.source_settings(chain.dataset),
        layout.training_settings(chain.dataset, strategy.recipe),
        layout.query_settings(chain.budget, chain.dataset, chain.strategy),
        layout.observation_settings(),
        layout.budget(chain.budget, chain.dataset).model_dump(),
        code_digest("commands.start", "commands.train", "commands.query", "commands.observe"),
        code_digest(f"acquisition.{strategy.acquisition}"),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def code() -> str:
    """Digest of the project's code as it stands, byte by byte."""
    digest = hashlib.sha256()
    for path in sorted([Path("Snakefile"), *Path("src").rglob("*.py"), *Path("workflow").rglob("*.smk")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def plan() -> dict[str, Any]:
    """What ``pack`` wrote down: the configuration files, the code's digest, the identity of each chain to be run."""
    path = FOLDER / "plan.json"
    if not path.exists():
        raise UserError(f"{path} is missing; it is made by `pack`")
    return read_json(path)


def images(layout: Layout, chain: Chain) -> dict[str, Any] | None:
    """Counts and checksums of a chain's images, if they are prepared."""
    manifest = Path(layout.data(chain.dataset)) / "dataset.json"
    return dict(read_json(manifest)["splits"]) if manifest.exists() else None


def snakemake(files: Sequence[str], *arguments: str) -> list[str]:
    """A call of Snakemake; the configuration comes last, since it takes every word that follows for another file."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), *arguments]
    return [*command, "--configfile", *files] if files else command
