"""Draw a figure: in every format that the outputs' endings name (.svg, .pdf, .png)."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = (
    "lplgrad figure learning-curves --study results/demo/study.yaml --measurements results/demo/measurements.csv "
    "--budget low --output curves.svg curves.png"
)
KINDS = ("learning-curves", "strategy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("kind", choices=KINDS, help="which figure")
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument("--measurements", type=Path, required=True, metavar="CSV", help="measurements.csv")
    parser.add_argument("--classes", type=Path, metavar="CSV", help="classes.csv, for strategy")
    parser.add_argument("--budget", required=True, help="name of the budget")
    parser.add_argument("--dataset", help="name of the data set, for strategy")
    parser.add_argument("--strategy", help="name of the strategy, for strategy")
    parser.add_argument("--output", type=Path, nargs="+", required=True, metavar="FILE", help="files to write")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write."""
    from lplgrad.commands.common import check_endings, read_measurements
    from lplgrad.errors import UserError
    from lplgrad.report import figures, style
    from lplgrad.settings import read_study_file

    check_endings(arguments.output, (".svg", ".pdf", ".png"))
    file = read_study_file(arguments.study)
    measurements = read_measurements(arguments.measurements, ["accuracy", "labels"])
    if arguments.kind == "learning-curves":
        figure = figures.learning_curves(measurements, file, arguments.budget)
    else:
        if None in (arguments.classes, arguments.dataset, arguments.strategy):
            raise UserError("a strategy's figure needs --classes, --dataset and --strategy")
        classes = read_measurements(arguments.classes, ["class", "accuracy"])
        figure = figures.strategy(measurements, classes, file, arguments.budget, arguments.dataset, arguments.strategy)
    style.save(figure, arguments.output)
