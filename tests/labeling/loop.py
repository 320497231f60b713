"""A study that a person labels, round by round without Snakemake, in the working directory of a test."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lplgrad.labeling.waiting import Waiting, waiting
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study
from lplgrad.study.validation import words
from tests.runs import HOME

CLASSES = ("cat", "dog", "owl")
Call = Callable[..., tuple[int, str]]


def image(path: Path, number: int, seed: int) -> Path:
    """An image of 8x8 pixels, different for each seed, whose class shows in its brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 50, size=(8, 8, 3))
    Image.fromarray((noise + 60 * number).astype(np.uint8)).save(path)
    return path


def photos(
    folder: Path, labeled: int = 6, unlabeled: int = 10, test: int = 0, classes: tuple[str, ...] = CLASSES
) -> None:
    """A folder with so many labelled and test images of each class, and so many unlabelled ones of each."""
    seed = 0
    for number, name in enumerate(classes):
        parts = {f"labeled/{name}": (labeled, 0), "unlabeled/trip": (unlabeled, 50), f"test/{name}": (test, 80)}
        for part, (count, first) in parts.items():
            for k in range(first, first + count):
                seed += 1
                image(folder / part / f"{name}{k:02d}.png", number, seed)


class Loop:
    """A study that queries at random, so that its rounds need no training."""

    def __init__(self, lplgrad: Call, **dataset: Any) -> None:
        self.call = lplgrad
        budget = {"query_size": 4, "labels": dataset.pop("labels", 1000)}
        row = {
            "source": "image_folder", "path": "photos", "oracle": "person", "image_size": 8,
            "backbone": {"name": "small_resnet", "width": 4},
            "training": {"epochs": 2, "batch_size": 8, "milestones": []},
            "budgets": {"next": budget}, **dataset,
        }  # fmt: skip
        run = {"budgets": ["next"], "datasets": ["photos"], "strategies": ["random"], "seeds": [1]}
        self.file = Path("photos.yaml")
        self.file.write_text(
            yaml.safe_dump({"study": "photos", "title": "Photos", "run": run, "datasets": {"photos": row}})
        )

    @property
    def study(self) -> Study:
        return read_study([HOME / "config.yaml", self.file])

    @property
    def layout(self) -> Layout:
        return Layout(self.study)

    @property
    def trial(self) -> Trial:
        return next(self.layout.trials())

    def waiting(self) -> Waiting | None:
        return waiting(self.study, self.layout)

    def prepare(self) -> tuple[int, str]:
        return self.call(
            "prepare", "--settings", *words(self.layout.source_settings("photos")), "--output", "data/photos"
        )

    def answers(self, number: int) -> tuple[int, str]:
        layout, trial = self.layout, self.trial
        before: list[object] = []
        if number > 1:
            before = ["--labeled", layout.labels(trial, number - 1), "--pool", layout.pool(trial, number - 1)]
            before += ["--batch", layout.batch(trial, number - 1)]
        classes = self.study.datasets["photos"].classes
        return self.call(
            "answers", "--data", "data/photos", "--round", number, "--answers", layout.answers("photos"), *before,
            "--settings", *words(layout.source_settings("photos")),
            *([f"--classes={json.dumps(classes)}"] if classes else []),
            "--output", layout.labels(trial, number), layout.pool(trial, number),
        )  # fmt: skip

    def query(self, number: int) -> tuple[int, str]:
        layout, trial = self.layout, self.trial
        budget = self.study.datasets["photos"].budgets["next"]
        return self.call(
            "query", "--data", "data/photos", "--labeled", layout.labels(trial, number), "--round", number, "--seed", 1,
            "--pool", layout.pool(trial, number), "--answers", layout.answers("photos"), "--labels", budget.labels,
            "--settings", *words(layout.query_settings("next", "photos", "random")),
            "--output", layout.round(trial, number),
        )  # fmt: skip

    def begin(self) -> None:
        """Prepare the data set, and ask the first time."""
        for status, said in (self.prepare(), self.answers(1), self.query(1)):
            assert status == 0, said

    def go_on(self, number: int) -> str:
        """Take the answers in, and ask again; what the former said."""
        status, log = self.answers(number)
        assert status == 0, log
        status, said = self.query(number)
        assert status == 0, said
        return log

    def table(self, number: int = 1) -> Path:
        return Path(self.layout.answers("photos"), f"round{number}.csv")

    def rows(self, number: int = 1) -> list[dict[str, str]]:
        with self.table(number).open(newline="") as file:
            return list(csv.DictReader(file))

    def fill_in(self, number: int = 1, answers: Mapping[str, str] | None = None) -> None:
        """Label the images of a batch truthfully, except those whose names (without ending) are given."""
        answers = answers or {}
        rows = self.rows(number)
        for row in rows:
            name = Path(row["file"]).stem
            row["label"] = answers.get(name, row["label"] or name[:3])
        with self.table(number).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)

    def labels(self, number: int) -> dict[str, str]:
        """The class of each labelled image by the name of its file, when a round begins; ? if unknown."""
        from lplgrad.datasets.prepared.shards import PoolFile, known_images

        pool = PoolFile.read(Path(self.layout.pool(self.trial, number)))
        names = known_images(Path("data/photos"), len(pool.shards)).names
        with Path(self.layout.labels(self.trial, number)).open() as file:
            rows = list(csv.DictReader(file))
        return {
            Path(names[int(row["index"])]).stem: "?" if row["label"] == "-1" else pool.classes[int(row["label"])]
            for row in rows
        }


def single(said: str, *parts: str) -> None:
    """One line says what is wrong."""
    lines = [line for line in said.splitlines() if ": error: " in line]
    assert lines == said.strip().splitlines()[-1:], said
    for part in parts:
        assert part in lines[0]
