"""Make a table: its numbers as .csv, and a page to read as .html."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from lplgrad.analysis.measured import mixed_versions, read_measurements, read_timings
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_text
from lplgrad.paper import ablation, published
from lplgrad.paper import tables as paper_tables
from lplgrad.report import deviations, tables
from lplgrad.report.document import Part, check_endings, document
from lplgrad.study.reading import read_study, read_study_file
from lplgrad.study.settings import StudyFile

OF_STUDY = ("datasets", "budgets", "deviations")
OF_MEASUREMENTS = ("accuracy", "accuracy-against-paper", "ablation")
OF_TIMINGS = ("time", "time-against-paper")


def run(arguments: argparse.Namespace) -> None:
    """Compute, lay out and write."""

    check_endings(arguments.output, (".csv", ".html"))
    file = read_study_file(arguments.study)
    if arguments.kind in OF_STUDY:
        made, caution = _of_study(arguments, file), ""
    else:
        read, make = (read_timings, _of_time) if arguments.kind in OF_TIMINGS else (read_measurements, _of_accuracy)
        frame = read(_path(arguments), file, arguments.partial)
        made, caution = make(arguments.kind, frame, file), mixed_versions(frame)
    table, parts, heading, note = made
    missing = "".join(f" {name} is missing: {reason}." for name, reason in file.unavailable.items())
    write = {
        ".csv": lambda: table.to_csv(index=False, float_format="%.6g"),
        ".html": lambda: document(
            f"{heading}: {file.study.title}", [Part(text=(caution,)), *parts, Part(text=(note + missing,))]
        ),
    }
    for path in arguments.output:
        write_text(path, write[path.suffix]())


Table = tuple["pd.DataFrame", "list[Part]", str, str]


def _of_study(arguments: argparse.Namespace, file: StudyFile) -> Table:

    if arguments.kind == "datasets":
        table = paper_tables.datasets_table(file)
        heading = "Data sets (the paper's Table I)"
        note = "The paper's numbers are those it prints in Table I and in its text; bold where ours differ."
        if not set(table["dataset"]) & set(published("datasets")["dataset"]):
            heading, note = "Data sets", ""
        return table, paper_tables.datasets_parts(table, file), heading, note
    if arguments.kind == "budgets":
        table = paper_tables.budgets_table(file)
        heading, note = "Budgets (the paper's Table II)", "The paper's number stands in brackets where ours differs."
        if table.merge(published("budgets"), on=["budget", "dataset"]).empty:
            heading, note = "Budgets", ""
        return table, paper_tables.budgets_parts(table, file), heading, note
    if arguments.presets is None:
        raise UserError("--presets: missing: the two files that the study is compared with")
    paper, authors_code = arguments.presets
    table = deviations.deviations_table(file.study, read_study([paper]), read_study([paper, authors_code]))
    note = (
        "Settings of the recipes, strategies, data sets and budgets that both the study and the paper define, the "
        "precision of training and the number of seeds, where the paper's preset, its authors' public code and this "
        "study do not all agree; bold where this study deviates from the preset. Two "
        "traits of that code are not offered as settings: its strategies start from different labels, and its Coreset "
        "on SVHN compares raw pixels of shuffled batches."
    )
    return table, deviations.deviations_parts(table, "this study"), "Paper, authors' code and this study", note


def _of_accuracy(kind: str, measurements: pd.DataFrame, file: StudyFile) -> Table:

    if kind == "accuracy":
        table = tables.accuracy_table(measurements)
        note = (
            "Mean ± sample standard deviation over seeds, after the last epoch of a round. Bold: the highest mean of a "
            "row. (of n): only n trials got there; a trial stops at its target accuracy, where one is set."
        )
        return table, tables.accuracy_parts(table, file), "Test accuracy (%)", note
    if kind == "ablation":
        table = ablation.ablation_table(measurements, file)
        beside = (
            "A difference is ours minus the paper's; bold where the paper's number lies outside the 95 % t interval of "
            "ours. The paper gives no spread for these tables: what chance did to its own numbers is not counted, so "
            "that bold comes too easily. "
        )
        note = (
            "Test accuracy in percent with and without the auxiliary module, all else equal: mean ± standard deviation "
            "of the trials that both have. The gain is the mean of the differences within seeds; bold where its 95 % t "
            f"interval leaves out zero. {beside if table['gain_paper'].notna().any() else ''}Nothing is corrected for "
            "the number of cells. Where a trial had stopped at its target accuracy there is no interval: those that "
            "are left are no sample of all. Interpolated: no round has that many labels, and each trial's curve is "
            "read linearly between the rounds around it."
        )
        if table.empty:
            note = "No two strategies of the study query alike, and train alike but for the auxiliary module."
        heading = "With and without the auxiliary module (the paper's Tables V and VI)"
        return table, ablation.ablation_parts(table, file), heading, note
    table = paper_tables.accuracy_against_paper(measurements)
    note = (
        "Mean ± standard deviation in percent. Bold: the difference is more than the seeds explain, by Welch's test at "
        "5 %, not corrected for the number of cells; the paper's ± is read as a standard deviation over its 5 trials. "
        "(n = ...): that many trials got there. Where that is because one stopped at its target accuracy, nothing is "
        "tested: those that are left are no sample of all."
    )
    if table.empty:
        note = "The study has no cell that the paper's Table III has: same data set, budget, labels and strategy."
    heading = "Accuracy against the paper's Table III"
    return table, paper_tables.accuracy_against_paper_parts(table, file), heading, note


def _of_time(kind: str, timings: pd.DataFrame, file: StudyFile) -> Table:

    if kind == "time":
        table = tables.time_table(timings)
        note = (
            "Seconds of training and of the query alone, without starting a job and reading its files; means over "
            "seeds. Jobs that ran side by side on a machine slowed each other. A trial's training includes round 1, "
            "which strategies of one recipe share. (of n): the mean of n trials alone; one that stopped at its target "
            "accuracy has no seconds of a whole trial. While a study runs, a trial goes to the last round that most "
            "have."
        )
        return table, tables.time_parts(table, file), "Time", note
    table = paper_tables.time_against_paper(timings)
    note = (
        "Seconds as multiples of LPLgrad's on the same seed, mean over seeds with the 95 % t interval. A round: over "
        "the rounds that both trained or queried in; a trial: over trials that both ran to the end, (n = ...) if "
        "those are fewer; the two are the same where no trial stopped early. Beside them the same ratios of the "
        "paper's Table IV; bold: the paper's lies outside our interval, which says nothing of what chance did to the "
        "paper's numbers. The paper names no unit, no budget and no number of trials, and does not say whether its "
        "numbers are those of a round or of a trial; they are read as the high budget's. Jobs that ran side by side "
        "on a machine slowed each other. Seconds themselves are in the table of time, with the hardware."
    )
    if table.empty:
        note = (
            "Nothing to compare: the paper's Table IV is read as multiples of LPLgrad's with the high budget, and this "
            "study has no times of LPLgrad (the strategy lplgrad, the budget high) on a data set of the paper."
        )
    heading = "Time against the paper's Table IV"
    return table, paper_tables.time_against_paper_parts(table, file), heading, note


def _path(arguments: argparse.Namespace) -> Path:

    if arguments.measurements is None:
        raise UserError("--measurements: missing: the table is made from it")
    return Path(arguments.measurements)
