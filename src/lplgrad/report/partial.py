"""Make tables and figures of the finished rounds of a study in another folder, without Snakemake."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from lplgrad.analysis import collect
from lplgrad.analysis.departures import check_settings
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_text
from lplgrad.machine.log import say
from lplgrad.report import figures, tables
from lplgrad.report.document import Part, document
from lplgrad.study.availability import absent_datasets
from lplgrad.study.layout import Layout
from lplgrad.study.reading import left_out, read_configuration
from lplgrad.study.settings import StudyFile


def run(arguments: argparse.Namespace) -> None:
    """Collect, draw and write; write the page that links to all files last."""
    study = read_configuration(arguments.files)
    reasons = left_out(study)
    absent = [name for name in absent_datasets(study) if arguments.partial or name in reasons]
    missing = {name: reasons.get(name, "not prepared yet") for name in absent}
    file = StudyFile(study=study, unavailable=missing)
    layout, folder = Layout(study, missing), arguments.output
    if folder.resolve() == Path(layout.root).resolve():
        raise UserError(f"--output: {folder}: the study writes there itself; name another folder")
    others = check_settings(layout, partial=arguments.partial)
    measurements = collect.measurements(file, arguments.partial, others)
    first = next(iter(others.values()), None)
    if measurements.empty and first:
        raise UserError(f"all rounds were run with other settings, for example {first.file}: {first.problem}")
    if measurements.empty:
        raise UserError(f"{layout.root}: no round is finished yet; was this the folder that Snakemake runs in?")
    write_text(folder / "study.yaml", yaml.safe_dump(file.model_dump(by_alias=True), sort_keys=False))
    for name, frame in (
        ("measurements", measurements),
        ("classes", collect.class_accuracies(file, arguments.partial, others)),
        ("timings", collect.timings(file, arguments.partial, others)),
    ):
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))

    made = []
    sources = {name: folder / f"{name}.csv" for name in ("measurements", "classes", "timings")}
    options = {**vars(arguments), **sources, "study": folder / "study.yaml", "highlight": None}
    for kind in ("accuracy", "time", "ablation", "accuracy-against-paper"):
        outputs = [folder / f"{kind.replace('-', '_')}.{ending}" for ending in ("csv", "html")]
        tables.run(argparse.Namespace(**{**options, "kind": kind, "output": outputs}))
        made.append(outputs[1].name)
    for budget in dict.fromkeys(measurements["budget"]):
        outputs = [folder / f"learning_curves_{budget}.{ending}" for ending in ("svg", "png")]
        given = {**options, "kind": "learning-curves", "budget": budget, "output": outputs}
        figures.run(argparse.Namespace(**given))
        made.append(outputs[0].name)

    rounds = sum(layout.rounds(trial.budget, trial.dataset) for trial in layout.trials())
    gaps = "".join(f" {name} is missing: {reason}." for name, reason in missing.items())
    summary = f"{len(measurements)} of {rounds} rounds of {study.title}."
    if first:
        gaps += (
            f" Left out: rounds of {len(others)} trial(s) that were run with other settings, for example {first.file}: "
            f"{first.problem}."
        )
    page = document(
        f"So far: {study.title}" if arguments.partial else study.title,
        [Part(text=(summary + gaps,), links=tuple(made))],
    )
    write_text(folder / "index.html", page)
    say(f"{summary}{gaps} See {folder / 'index.html'}")
