"""What the tests share: a small data set on disk, and the command line called from within."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lplgrad.cli import main
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import DatasetArrays, Examples, checksums, open_dataset, sha256
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.files import file_digest
from lplgrad.rounds.pool import LabeledSet, draw_start
from lplgrad.study.layout import Layout
from tests.runs import copy_project, snakemake

# Before torch is imported: small tensors on many threads take longer than on one, most of all on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

CLASSES = 4
POOL = 60


def small_images(count: int, seed: int, side: int = 8, channels: int = 1) -> Examples:
    """Images whose class shows in their brightness, with noise."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    noise = draw.integers(0, 50, size=(count, side, side, channels))
    return Examples((noise + 50 * labels[:, None, None, None]).astype(np.uint8), labels)


def record_settings(layout: Layout, torch: str = "2") -> None:
    """Write the settings of a study beside the results that a test has made by hand."""
    for trial in layout.trials():
        recipe = layout.study.strategies[trial.strategy].recipe
        training = layout.training_settings(trial.dataset, recipe)
        query = layout.query_settings(trial.budget, trial.dataset, trial.strategy)
        for number in range(1, layout.rounds(trial.budget, trial.dataset) + 1):
            bought = layout.bought(trial.budget, trial.dataset, number)
            about = {"round": number, "seed": trial.seed, "labels": bought, "versions": {"torch": torch}}
            prepared, labeled = Path(layout.data(trial.dataset)), Path(layout.labels(trial, number))
            about["dataset"] = checksums(prepared) if (prepared / "dataset.json").exists() else {"train_inputs": "?"}
            about["labeled"] = file_digest(labeled) if labeled.exists() else None
            target = layout.budget(trial.budget, trial.dataset).target_accuracy
            for folder, name, settings, stops_at in (
                (layout.trained(trial, number), "settings.json", training, target if number > 1 else None),
                (layout.round(trial, number), "query_settings.json", query, target),
            ):
                if Path(folder).exists():
                    values = {**about, "target_accuracy": stops_at, "settings": settings}
                    Path(folder, name).write_text(json.dumps(values))


def first_labels(images: int, size: int) -> LabeledSet:
    """The labels of round 1 of seed 1, from a pool of so many ``small_images``."""
    drawn = draw_start(images, size, seed=1)
    return LabeledSet().extended(drawn, drawn % CLASSES, 1)


def replace_array(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Put another array into a prepared data set as if it had been prepared with it: ``train_labels`` and the like."""
    np.save(folder / f"{name}.npy", array)
    described = json.loads((folder / "dataset.json").read_text())
    split, kind = name.split("_")
    described["splits"][split][f"{kind}_sha256"] = sha256(array)
    (folder / "dataset.json").write_text(json.dumps(described))


@pytest.fixture
def data(tmp_path: Path) -> DatasetArrays:
    """A prepared data set of 60 and 20 images of 8x8 pixels in four classes, in ``tmp_path/data``."""
    folder = tmp_path / "data"
    prepared = Prepared(small_images(POOL, 1), small_images(20, 2), [f"class{k}" for k in range(CLASSES)], {})
    write_dataset(folder, prepared)
    return open_dataset(folder)


@pytest.fixture
def lplgrad(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call the command line within this process: its exit status, and its standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        status = main([str(argument) for argument in arguments])
        return status, capsys.readouterr().err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the tiny study has run, undisturbed."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    snakemake(project)
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to disturb."""
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


TRAIN = "{backbone: {name: small_resnet, width: 4}, training: {epochs: 2, batch_size: 8, milestones: []}}"
JOINT = TRAIN[:-1] + ", recipe: {trains: joint}}"
