"""Draw a figure: in every format that the outputs' endings name (.svg, .pdf, .png)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.analysis.diagnostics import labeled_set, scores_of, trained_rounds
from lplgrad.analysis.measured import read_classes, read_measurements
from lplgrad.analysis.round_files import read_array, read_confidence, read_observed
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.machine.errors import UserError, nearest
from lplgrad.report import chosen, figures, style
from lplgrad.report import model_figures as models
from lplgrad.report.chosen import Query
from lplgrad.report.document import check_endings
from lplgrad.report.model_figures import Observation
from lplgrad.report.style import wrapped
from lplgrad.report.tables import dataset_title, strategy_title
from lplgrad.rounds.settings import behind, check_settings
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study_file
from lplgrad.study.settings import StudyFile

# What each figure needs to be told beside the study.
NEEDS = {
    "learning-curves": ("measurements", "budget"),
    "dataset-curves": ("measurements", "dataset"),
    "strategy": ("measurements", "classes", "budget", "dataset", "strategy"),
    "class-accuracy": ("classes", "budget", "dataset", "strategy", "seed"),
    "embeddings": ("budget", "dataset", "strategy", "seed"),
    "confidence": ("budget", "dataset", "strategy", "seed"),
    "loss-correlation": ("budget", "dataset", "strategy", "seed"),
    "chosen": ("budget", "dataset", "strategy", "seed"),
}


def run(arguments: argparse.Namespace) -> None:
    """Draw and write."""

    check_endings(arguments.output, (".svg", ".pdf", ".png"))
    needs = NEEDS[arguments.kind]
    missing = [f"--{name}" for name in needs if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"{arguments.kind} needs {' and '.join(missing)}")
    file = read_study_file(arguments.study)
    draw = _curves if "measurements" in needs else _trial
    style.save(draw(arguments, file), arguments.output)


def _curves(arguments: argparse.Namespace, file: StudyFile) -> Any:

    measurements = read_measurements(arguments.measurements, file, arguments.partial)
    for name in NEEDS[arguments.kind][1:]:
        if name in measurements and getattr(arguments, name) not in set(measurements[name]):
            known = nearest(getattr(arguments, name), set(measurements[name]))
            raise UserError(f"--{name}: the measurements have no {getattr(arguments, name)!r} ({known})")
    if arguments.kind == "learning-curves":
        return figures.learning_curves(measurements, file, arguments.budget)
    if arguments.kind == "dataset-curves":
        return figures.dataset_curves(measurements, file, arguments.dataset)
    classes = read_classes(arguments.classes, file, arguments.partial)
    return figures.strategy(measurements, classes, file, arguments.budget, arguments.dataset, arguments.strategy)


def _trial(arguments: argparse.Namespace, file: StudyFile) -> Any:
    """A figure of one trial, under its name."""

    figure = _of_trial(arguments, file)
    trial = f"{strategy_title(file, arguments.strategy)} on {dataset_title(file, arguments.dataset)}"
    title = wrapped(f"{trial}, {arguments.budget} budget, seed {arguments.seed}", round(12 * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.17 * title.count("\n"))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _of_trial(arguments: argparse.Namespace, file: StudyFile) -> Any:
    """Drawn from the files of its rounds."""

    layout = Layout(file.study, file.unavailable)
    trial = Trial(arguments.budget, arguments.dataset, arguments.strategy, arguments.seed)
    for name, value in vars(trial).items():
        known = {str(getattr(other, name)) for other in layout.trials()}
        if str(value) not in known:
            raise UserError(f"--{name}: the study has no {value!r} ({nearest(str(value), known)})")
    rounds = layout.shown_models().get(trial)
    if arguments.kind == "chosen":
        check_settings(layout, trial, behind(layout, trial, layout.rounds(trial.budget, trial.dataset)))
        data = open_dataset(Path(layout.data(trial.dataset)))
        return chosen.contact_sheet(_queries(layout, trial, data), data)
    if rounds is None:
        raise UserError(f"{arguments.study}: model_figures does not name this trial, so that its models were not kept")
    check_settings(layout, trial, behind(layout, trial, max(rounds), rounds))
    if arguments.kind == "class-accuracy":
        return models.class_accuracies(_classes(arguments, file, trial), rounds)
    data = open_dataset(Path(layout.data(trial.dataset)))
    observations = [_observation(layout, trial, number, data) for number in rounds]
    if arguments.kind == "confidence":
        return models.confidences(observations)
    if arguments.kind == "loss-correlation":
        return models.loss_correlations(observations)
    return models.embeddings(observations, data.classes)


def _queries(layout: Layout, trial: Trial, data: DatasetArrays) -> list[Any]:

    numbers = range(1, layout.rounds(trial.budget, trial.dataset))
    return [Query(number, scores_of(layout, trial, number, data)) for number in numbers]


def _classes(arguments: argparse.Namespace, file: StudyFile, trial: Trial) -> pd.DataFrame:

    classes = read_classes(arguments.classes, file, arguments.partial)
    for name, value in vars(trial).items():
        classes = classes[classes[name] == value]
    return classes


def _observation(layout: Layout, trial: Trial, number: int, data: DatasetArrays) -> Any:

    folder, wanted = Path(layout.round(trial, number)), layout.study.model_figures
    labeled = labeled_set(layout, trial, trained_rounds(layout, trial, number), data)
    tested = min(wanted.embedded_images, len(data.test.labels))
    unlabeled = min(wanted.unlabeled_images, len(data.train.labels) - len(labeled))
    return Observation(
        number,
        len(labeled),
        read_array(folder / "features.npy", (tested, None)),
        read_observed(folder / "observed.csv", tested, data.test.labels),
        read_confidence(folder / "confidence.csv", labeled.indices, unlabeled),
    )
