"""The files of a study that has run, made up in a moment, and the commands that make everything of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lplgrad.acquisition import Choice
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.files import replacing, write_json
from lplgrad.rounds.files import write_labeled, write_logits, write_scores, write_test_scores
from lplgrad.rounds.pool import LabeledSet, draw_candidates, draw_test_examples
from lplgrad.study.budgets import Budget
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile
from lplgrad.study.validation import words
from tests.conftest import record_settings

HOME = Path(__file__).parents[1]
POOL, TEST = 40, 12
TINY = yaml.safe_load((HOME / "tests" / "tiny.yaml").read_text())
Accuracy = Callable[[Trial, int], float]


def study_of(**run: Any) -> dict[str, Any]:
    """The tiny study on the data set ``data``, with other lists under ``run``."""
    digits = {**TINY["datasets"]["digits"], "budgets": {"small": {"query_size": 4, "labels": 12}}}
    lists = {
        "budgets": ["small"],
        "datasets": ["data"],
        "strategies": ["lplgrad", "entropy", "random"],
        "seeds": [1, 2],
    }
    figures = {"budgets": ["small"], "datasets": ["data"], "strategies": ["lplgrad", "random"], "rounds": [1, 2]}
    return {**TINY, "run": {**lists, **run}, "datasets": {"data": digits}, "model_figures": figures}


def finish(values: dict[str, Any], classes: list[str], accuracy: Accuracy | None = None) -> StudyFile:
    """Write the files of all rounds below the current folder.

    Args:
        values: the study, laid over config.yaml.
        classes: names of the classes of all of its data sets.
        accuracy: of a trial's round; by default it rises, with luck. A trial that has reached the target accuracy of
            its budget trains and queries no more.
    """
    Path("overlay.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    file = StudyFile(study=read_study([HOME / "config.yaml", Path("overlay.yaml")]))
    luck = np.random.default_rng(0)
    accuracy = accuracy or (lambda trial, number: 0.4 + 0.1 * number + float(luck.uniform(0, 0.1)))
    layout = Layout(file.study)
    for dataset in layout.datasets:
        prepared = Prepared(_images(POOL, classes), _images(TEST, classes), classes, {})
        write_dataset(Path(layout.data(dataset)), prepared, settings={"source": "digits"})
    rounds_of_1: dict[str, float] = {}
    for trial in layout.trials():
        budget = layout.budget(trial.budget, trial.dataset)
        draw = np.random.default_rng([trial.seed, len(trial.strategy)])
        start = np.sort(np.random.default_rng(trial.seed).permutation(POOL)[: budget.bought(1)])
        labeled = LabeledSet().extended(start, start % len(classes), 1)
        write_labeled(Path(layout.labels(trial, 1)), labeled)
        reached, stopped = 0.0, False
        for number in range(1, budget.rounds + 1):
            folder = Path(layout.trained(trial, number))
            if not stopped:
                reached = (
                    rounds_of_1.setdefault(str(folder), accuracy(trial, 1)) if number == 1 else accuracy(trial, number)
                )
            _train(folder, len(labeled.indices), reached, stopped, classes)
            if number in layout.shown_models().get(trial, []):
                _observe(Path(layout.round(trial, number)), labeled, classes, draw)
            stopped = stopped or (budget.target_accuracy is not None and reached >= budget.target_accuracy)
            if number < budget.rounds:
                labeled = _query(Path(layout.round(trial, number)), labeled, len(classes), stopped, trial, budget, draw)
    record_settings(layout)
    return file


def _images(count: int, classes: list[str]) -> Examples:
    labels = np.arange(count, dtype=np.int64) % len(classes)
    noise = np.random.default_rng(count).integers(0, 255, size=(count, 8, 8, 1))
    return Examples(noise.astype(np.uint8), labels)


def _train(folder: Path, labels: int, accuracy: float, stopped: bool, classes: list[str]) -> None:
    odd: tuple[float | None, ...] = (0.0, 1e-5, None)  # values that tables write in other ways
    per_class = dict(zip(classes, (accuracy, *odd, *[accuracy] * len(classes)), strict=False))
    values = {"labels": labels, "accuracy": accuracy, "train_loss": 1.0, "stopped": stopped}
    write_json(folder / "metrics.json", {**values, "accuracy_per_class": per_class})
    seconds = {"train_seconds": 0.0 if stopped else 1.5, "test_seconds": 0.5, "peak_memory_mb": 9.0}
    about = {"device": "a, b", "host": "here", "threads": 1, "versions": {"torch": "2"}}
    write_json(folder / "timing.json", {**seconds, **about})
    logits = np.random.default_rng(labels).normal(size=(TEST, len(classes)))
    write_logits(folder / "test_logits.npy", logits.astype(np.float32))


def _query(
    folder: Path,
    labeled: LabeledSet,
    classes: int,
    stopped: bool,
    trial: Trial,
    budget: Budget,
    draw: np.random.Generator,
) -> LabeledSet:
    number = int(labeled.rounds.max())
    candidates = draw_candidates(POOL, labeled, budget.candidates, trial.seed, number)[: 0 if stopped else None]
    scores = draw.random(len(candidates)).astype(np.float32)
    choice = Choice(np.argsort(-scores, kind="stable")[: budget.query_size], scores)
    said: dict[str, Any] = {}
    if trial.strategy != "random":
        shares = draw.uniform(0.3, 0.9, size=(2, len(candidates)))
        said = {"entropy": shares[0], "confidence": shares[1], "predicted": np.zeros(len(candidates), np.int64)}
    chosen = candidates[choice.picks]
    after = labeled if stopped else labeled.extended(chosen, chosen % classes, number + 1)
    write_scores(folder / "scores.csv", candidates, choice, **said)
    write_labeled(folder / "next_labeled.csv", after)
    write_json(folder / "query_timing.json", {"query_seconds": 0.0 if stopped else 0.2, "peak_memory_mb": 9.0})
    if stopped or trial.strategy == "random":
        write_test_scores(folder / "test_scores.csv")
    else:
        drawn = draw_test_examples(TEST, trial.seed)
        write_test_scores(folder / "test_scores.csv", drawn, draw.random(TEST).astype(np.float32), draw.random(TEST))
    return after


def _observe(folder: Path, labeled: LabeledSet, classes: list[str], draw: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "features.npy") as file:
        np.save(file, draw.normal(size=(TEST, 5)).astype(np.float32), allow_pickle=False)
    columns = {name: draw.random(TEST) for name in ("loss", "entropy", "gradient_norm")}
    asked = pd.DataFrame(
        {"index": range(TEST), "class": np.arange(TEST) % len(classes), **columns, "predicted_loss": ""}
    )
    asked.to_csv(folder / "observed.csv", index=False)
    shown = np.concatenate([labeled.indices, np.setdiff1d(np.arange(POOL), labeled.indices)])
    known = np.isin(shown, labeled.indices).astype(int)
    frame = pd.DataFrame({"index": shown, "labeled": known, "confidence": draw.uniform(0.3, 1, POOL)})
    frame.to_csv(folder / "confidence.csv", index=False)


def commands(file: StudyFile) -> Iterator[list[str]]:
    """The command lines that make everything of a finished study, with the files that the workflow has them make.

    Of figures the .svg alone, which takes less time.
    """
    layout = Layout(file.study)
    root, study = str(layout.root), ["--study", f"{layout.root}/study.yaml"]
    measurements, timings = ["--measurements", f"{root}/measurements.csv"], ["--timings", f"{root}/timings.csv"]

    def drawn(name: str) -> list[str]:
        return ["--output", f"{root}/figures/{name}.svg"]

    yield ["study", "--settings", *words(layout.study_settings()), "--prepared", "--output", study[1]]
    yield ["measurements", *study, "--output", root]
    yield ["timings", *study, "--output", timings[1]]
    yield ["statistics", *study, *measurements, "--output", f"{root}/statistics"]
    yield ["diagnostics", *study, "--output", f"{root}/statistics"]
    yield ["claims", *study, *measurements, *timings, "--output", f"{root}/claims"]
    for kind in ("datasets", "budgets", "accuracy", "ablation", "accuracy-against-paper", "time", "time-against-paper"):
        source = [*measurements, *timings] if kind not in ("datasets", "budgets") else []
        yield ["table", kind, *study, *source, "--output", f"{root}/tables/{kind}.csv", f"{root}/tables/{kind}.html"]
    for kind in ("differences", "gains", "penalties", "ranks"):
        yield ["figure", kind, *study, *measurements, *drawn(kind)]
    for budget in file.study.run.budgets:
        of = [*study, "--budget", budget]
        yield ["figure", "learning-curves", *of, *measurements, *drawn(f"learning_curves_{budget}")]
        yield ["figure", "cost", *of, *measurements, *timings, *drawn(f"cost_{budget}")]
        for kind in ("calibration", "choices"):
            yield ["figure", kind, *of, "--diagnostics", f"{root}/statistics", *drawn(f"{kind}_{budget}")]
    for dataset in layout.datasets:
        yield ["figure", "dataset-curves", *study, "--dataset", dataset, *measurements, *drawn(dataset)]
        yield ["files", "--data", layout.data(dataset), "--output", f"{layout.data(dataset)}/files.csv"]
    first = file.study.run.seeds[0]
    for trial in layout.trials():
        if trial.seed == first:
            place = f"{trial.budget}/{trial.dataset}/{trial.strategy}"
            of = [*study, "--budget", trial.budget, "--dataset", trial.dataset, "--strategy", trial.strategy]
            tables = [*measurements, "--classes", f"{root}/classes.csv"]
            yield ["figure", "strategy", *of, *tables, *drawn(f"strategies/{place}")]
            yield ["figure", "chosen", *of, "--seed", str(first), *drawn(f"chosen/{place}")]
            listed = ["--output", f"{root}/figures/chosen/{place}.csv"]
            yield ["table", "chosen-files", *of, "--seed", str(first), *listed]
            if trial in layout.shown_models():
                for kind in ("embeddings", "confidence", "loss-correlation"):
                    yield ["figure", kind, *of, "--seed", str(first), *drawn(f"models/{kind}/{place}")]
                tables = ["--classes", f"{root}/classes.csv", "--seed", str(first)]
                yield ["figure", "class-accuracy", *of, *tables, *drawn(f"models/class-accuracy/{place}")]
