"""Every table and array that a command reads back, damaged: refused in one line, or read as the whole file is.

The files are those of a study whose rounds were made up instead of trained; all else is written by the program itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from lplgrad.analysis import diagnostics, measured
from lplgrad.analysis.round_files import read_array, read_confidence, read_observed, read_test_scores
from lplgrad.cli import main
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.rounds import checkpoints
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study_file
from lplgrad.study.settings import BackboneRow, Normalization, StudyFile
from lplgrad.study.validation import words
from tests.conftest import CLASSES
from tests.finished_study import TEST, finish, study_of
from tests.learners import JOINT, learner_of

HOME = Path(__file__).parents[2]
ROOT = Path("results/tiny")
TRIAL = Trial("small", "data", "entropy", 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFile]:
    """A study of two strategies and seeds, with one budget that is spent and one at whose target accuracy trials stop;
    its folder is the working directory."""
    folder = tmp_path_factory.mktemp("study")
    values = study_of(budgets=["small", "stops"], strategies=["entropy", "random"])
    spent = {"query_size": 3, "candidates": 7, "labels": 9}
    values["datasets"]["data"]["budgets"] = {"small": spent, "stops": {**spent, "target_accuracy": 0.6}}
    figures = {"budgets": ["small"], "strategies": ["entropy"], "unlabeled_images": 9, "embedded_images": 6}
    values["model_figures"] |= figures
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        file = finish(values, ['a, "b"', "None", "c", "d"], accuracy)
        Path("study.yaml").write_text(yaml.safe_dump(file.model_dump(by_alias=True, mode="json")))
        look_into(Layout(file.study), open_dataset(Path("data/data")))
        for command in (
            ["measurements", "--output", str(ROOT)],
            ["timings", "--output", str(ROOT / "timings.csv")],
            ["diagnostics", "--output", str(ROOT / "statistics")],
        ):
            assert main([command[0], "--study", "study.yaml", *command[1:]]) == 0
        yield file


def accuracy(trial: Trial, number: int) -> float:
    """With seed 2 a trial reaches 0.65 in round 2."""
    return 0.05 * (number + 4 * trial.seed * (number > 1) + 3)


def look_into(layout: Layout, data: DatasetArrays) -> None:
    """Observe a model that nobody trained."""
    backbone, normalization = BackboneRow(name="small_resnet"), Normalization(mean=data.mean, std=data.std)
    made = learner_of(JOINT, backbone)
    about = checkpoints.Description(backbone, JOINT, (1, 8, 8), normalization, data.classes)
    checkpoints.save(Path("model"), made, about)
    common = ["--data", str(data.folder), "--checkpoint", "model", "--seed", "1"]
    for number in (1, 2):
        place = ["--labeled", layout.labels(TRIAL, number), "--output", layout.round(TRIAL, number)]
        assert main(["observe", *common, *place, "--settings", *words(layout.observation_settings())]) == 0


def scores_of(file: StudyFile, trial: Trial, number: int) -> pd.DataFrame:
    layout = Layout(file.study)
    return diagnostics.scores_of(layout, trial, number, open_dataset(Path(layout.data("data"))))


def labels_of(file: StudyFile, trial: Trial, number: int) -> pd.DataFrame:
    layout = Layout(file.study)
    found = diagnostics.labeled_set(layout, trial, number, open_dataset(Path(layout.data("data"))))
    return pd.DataFrame({"index": found.indices, "round": found.rounds})


def test_scores_of(path: Path) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(("score", "loss"), read_test_scores(path, TEST), strict=True)))


test_scores_of.__test__ = False  # type: ignore[attr-defined]

STATISTICS, ENTROPY = ROOT / "statistics", ROOT / "small/data/entropy/seed1"
# For every table: how it is read; the columns whose values nothing else in the study tells, so that a digit may be lost
# from them unseen; and those of them that may be empty.
TABLES: dict[Path, tuple[Callable[[StudyFile], Any], set[str], set[str]]] = {
    ROOT / "measurements.csv": (
        lambda file: measured.read_measurements(ROOT / "measurements.csv", file), {"accuracy", "train_loss"}, set(),
    ),
    ROOT / "timings.csv": (
        lambda file: measured.read_timings(ROOT / "timings.csv", file),
        set(list(measured.TIMINGS)[7:]), {"device", "host"},
    ),
    ROOT / "classes.csv": (lambda file: measured.read_classes(ROOT / "classes.csv", file), {"accuracy"}, set()),
    STATISTICS / "calibration.csv": (
        lambda file: measured.read_diagnostics(STATISTICS, file)["calibration"],
        set(list(measured.CALIBRATION)[6:]), {"entropy_loss_correlation"},
    ),
    STATISTICS / "choices.csv": (
        lambda file: measured.read_diagnostics(STATISTICS, file)["choices"],
        set(list(measured.CHOICES)[6:]), {"balance", "spread", "error_ranking", "score_entropy_correlation"},
    ),
    STATISTICS / "overlap.csv": (
        lambda file: measured.read_diagnostics(STATISTICS, file)["overlap"], {"jaccard"}, set(),
    ),
    ENTROPY / "round2/scores.csv": (
        lambda file: scores_of(file, TRIAL, 2), {"score", "entropy", "confidence", "predicted_class"}, set(),
    ),
    ROOT / "stops/data/entropy/seed2/round2/scores.csv": (
        lambda file: scores_of(file, Trial("stops", "data", "entropy", 2), 2), set(), set(),
    ),
    ENTROPY / "round2/next_labeled.csv": (lambda file: labels_of(file, TRIAL, 3), {"index"}, set()),
    ROOT / "small/data/start/seed1/labeled.csv": (lambda file: labels_of(file, TRIAL, 1), {"index"}, set()),
    ENTROPY / "round1/test_scores.csv": (
        lambda _: test_scores_of(ENTROPY / "round1/test_scores.csv"), {"index", "score", "loss"}, set(),
    ),
    ENTROPY / "round1/observed.csv": (
        lambda file: read_observed(ENTROPY / "round1/observed.csv", 6, np.arange(TEST) % CLASSES),
        {"index", "loss", "entropy", "gradient_norm", "predicted_loss"}, set(),
    ),
    ENTROPY / "round1/confidence.csv": (
        lambda file: read_confidence(
            ENTROPY / "round1/confidence.csv", labels_of(file, TRIAL, 1)["index"].to_numpy(), 9
        ),
        {"index", "confidence"}, set(),
    ),
}  # fmt: skip


def lines(rows: list[list[str]]) -> str:
    quoted = [
        [f'"{cell.replace(chr(34), chr(34) * 2)}"' if re.search('[,"]', cell) else cell for cell in row] for row in rows
    ]
    return "".join(",".join(row) + "\n" for row in quoted)


def damages(text: str, rows: list[list[str]], free: set[str], empty: set[str]) -> Iterator[tuple[str, str]]:
    """Damaged files, each with what is wrong: cuts around every line's end and elsewhere, rows and cells changed."""
    head, body = rows[0], rows[1:]
    ends = [place for place, character in enumerate(text) if character == "\n"]
    near = {end + step for end in ends for step in (-1, 0, 1)} | set(range(0, len(text), 97))
    for place in sorted(near & set(range(len(text)))):
        yield f"cut to {place} of {len(text)} bytes", text[:place]
    chosen = sorted({0, len(body) // 2, len(body) - 1} & set(range(len(body))))
    for number in chosen:
        before, row, after = rows[: number + 1], body[number], body[number + 1 :]
        yield f"row {number} dropped", lines([*before, *after])
        yield f"row {number} twice", lines([*before, row, row, *after])
        for column, (name, cell) in enumerate(zip(head, row, strict=True)):

            def changed(
                new: str, before: Any = before, row: Any = row, after: Any = after, column: int = column
            ) -> str:
                return lines([*before, [*row[:column], new, *row[column + 1 :]], *after])

            if cell and name not in empty:
                yield f"row {number}: {name} emptied", changed("")
            for place in range(len(cell) if name not in free else 0):
                yield f"row {number}: {name} without character {place}", changed(cell[:place] + cell[place + 1 :])
    for column in range(len(head) - 1):
        order = [*range(column), column + 1, column, *range(column + 2, len(head))]
        yield f"columns {column} and the next swapped", lines([[row[place] for place in order] for row in rows])


@pytest.mark.parametrize("path", TABLES, ids=str)
def test_a_damaged_table_is_refused_or_read_as_the_whole(path: Path, file: StudyFile) -> None:
    read, free, empty = TABLES[path]
    text = path.read_text()
    rows = list(csv.reader(text.splitlines(keepends=True)))
    assert lines(rows) == text
    whole = read(file)
    repeated = {"measurements.csv": 2, "timings.csv": 2}.get(path.name, 0)  # seed 2 of both strategies stops in round 2
    assert len(whole) == len(rows) - 1 - repeated
    try:
        for what, damaged in damages(text, rows, free, empty):
            path.write_text(damaged)
            assert damaged != text, what
            told(lambda: read(file), path, whole)
    finally:
        path.write_text(text)


def told(read: Callable[[], Any], path: Path, whole: Any = None) -> str:
    """The line in which a file is refused; empty where it reads as the whole file does. Anything else is a fault."""
    try:
        found = read()
    except UserError as error:
        line = str(error)
    else:
        assert whole is not None, f"{path.read_bytes()[-300:]!r} was read"
        assert found.equals(whole), f"{path.read_bytes()!r} was read as something else"
        return ""
    assert path.name in line
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize("path", [ENTROPY / "round2/test_logits.npy", ENTROPY / "round1/features.npy"], ids=str)
def test_an_array_that_is_cut_off_or_of_another_shape_is_refused(path: Path, file: StudyFile) -> None:
    shape = (TEST, CLASSES) if path.name == "test_logits.npy" else (6, None)

    def read() -> Any:
        return diagnostics.calibration(file) if path.name == "test_logits.npy" else read_array(path, shape)

    whole, array = path.read_bytes(), np.load(path)
    assert np.array_equal(read_array(path, shape), array)
    try:
        for length in sorted({*range(0, 130, 7), *range(128, len(whole), 41), len(whole) - 1}):
            path.write_bytes(whole[:length])
            assert "delete it and run again" in told(read, path)
        for other in (array[:-1], array[0], array.astype(np.float64), np.full_like(array, np.nan)):
            np.save(path, other)
            assert "delete it and run again" in told(read, path)
    finally:
        path.write_bytes(whole)


def test_a_study_file_that_is_cut_off_is_refused(file: StudyFile, tmp_path: Path) -> None:
    """The more so as it says which rows the tables have."""
    path = tmp_path / "study.yaml"
    text = Path("study.yaml").read_text()
    path.write_text(text)
    assert read_study_file(path) == file
    ends = [place for place, character in enumerate(text) if character == "\n"]
    for place in [0, *(end + step for end in ends[:-1:5] + ends[-3:-1] for step in (-1, 0, 1)), ends[-1] - 3]:
        path.write_text(text[:place])
        told(partial(read_study_file, path), path)


FIRST = {"budget": "small", "strategy": "entropy", "seed": 1, "round": 2}
STOPPED = {"budget": "stops", "strategy": "entropy", "seed": 2, "round": 3}
TABLE = {
    "measurements": measured.read_measurements, "timings": measured.read_timings, "classes": measured.read_classes,
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "where", "column", "cell", "words"),
    [
        ("measurements", FIRST, "stopped", "", "stopped must be True or False, not ''"),
        ("measurements", FIRST, "stopped", "1", "stopped must be True or False, not '1'"),
        ("measurements", FIRST, "stopped", "True", "contradict the budget"),
        ("measurements", STOPPED, "stopped", "False", "contradict the budget"),
        ("measurements", STOPPED, "labels", "9", "contradict the budget"),
        ("measurements", STOPPED, "accuracy", "0.7", "contradict the budget"),
        ("measurements", {**STOPPED, "round": 2}, "accuracy", "0.5", "contradict the budget"),
        ("measurements", {**STOPPED, "round": 1}, "accuracy", "0.7", "contradict the budget"),
        ("measurements", FIRST, "labels", "7", "contradict the budget"),
        *(
            ("measurements", FIRST, "accuracy", cell, f"accuracy must be a number from 0 to 1, not '{cell}'")
            for cell in ("", "inf", "nan", "-0.1", "1.01", "55", "1_0", " 0.5", "0.5.5", "high", "1e2")
        ),
        ("measurements", FIRST, "train_loss", "nan", "train_loss must be a finite number, not 'nan'"),
        ("measurements", FIRST, "seed", "3", "seed 3, round 2, labels 6: the study has no such row"),
        ("measurements", FIRST, "seed", "-1", "seed must be a whole number, not '-1'"),
        ("measurements", FIRST, "round", "1", "round 1, labels 6: this row is in it twice"),
        ("measurements", FIRST, "round", "4", "round 4, labels 6: the study has no such row"),
        ("measurements", FIRST, "strategy", "mine", "strategy mine, recipe plain, acquisition entropy, seed 1"),
        ("measurements", FIRST, "dataset", "other", "dataset other"),
        ("measurements", FIRST, "budget", "stops", "this row is in it twice"),
        ("measurements", FIRST, "recipe", "joint", "recipe joint"),
        ("measurements", FIRST, "acquisition", "random", "acquisition random"),
        *(
            ("timings", FIRST, "train_seconds", cell, f"must be a finite number of 0 or more, not '{cell}'")
            for cell in ("", "-1.0", "inf", "nan")
        ),
        ("timings", FIRST, "query_seconds", "", "query_seconds and query_peak_memory_mb must be empty in the last"),
        ("timings", {**FIRST, "round": 3}, "query_seconds", "1.0", "query_seconds and query_peak_memory_mb must"),
        ("timings", FIRST, "query_seconds", "-0.5", "or empty, not '-0.5'"),
        ("timings", FIRST, "recipe", "joint", "recipe joint"),
        ("classes", FIRST, "labels", "5", "contradict the budget"),
        ("classes", FIRST, "class", "z", "its classes are not those of data"),
        ("classes", FIRST, "accuracy", "", "its classes are not those of data"),
        ("classes", FIRST, "accuracy", "1.5", "accuracy must be a number from 0 to 1, or empty, not '1.5'"),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    file: StudyFile, tmp_path: Path, table: str, where: dict[str, Any], column: str, cell: str, words: str
) -> None:
    frame = pd.read_csv(ROOT / f"{table}.csv", dtype=str, keep_default_na=False)
    rows = np.logical_and.reduce([frame[name] == str(value) for name, value in where.items()])
    frame.loc[frame.index[rows][0], column] = cell
    path = tmp_path / f"{table}.csv"
    frame.to_csv(path, index=False)
    assert words in told(lambda: TABLE[table](path, file), path)
    if "twice" not in words and column != "query_seconds":  # a partial table without that row, or query, is sound
        told(lambda: TABLE[table](path, file, True), path)


def test_rounds_that_a_stopped_trial_repeats_are_dropped(file: StudyFile) -> None:
    for read, name in ((measured.read_measurements, "measurements"), (measured.read_timings, "timings")):
        found = read(ROOT / f"{name}.csv", file)
        stops = found.query("budget == 'stops' and strategy == 'entropy'").set_index(["seed", "round"])
        assert stops["repeats"].to_dict() == {(1, 1): 0, (1, 2): 0, (1, 3): 0, (2, 1): 0, (2, 2): 1}
        assert found.query("budget == 'small'")["repeats"].eq(0).all()
    asked = {(1, 1): True, (1, 2): True, (1, 3): False, (2, 1): True, (2, 2): False}
    assert stops["query_seconds"].notna().to_dict() == asked, "the round in which a trial stops has no query"


@pytest.mark.parametrize("table", TABLE)
def test_rounds_may_be_missing_from_a_partial_table_alone(file: StudyFile, tmp_path: Path, table: str) -> None:
    frame = pd.read_csv(ROOT / f"{table}.csv", dtype=str, keep_default_na=False)
    path = tmp_path / f"{table}.csv"
    gone = (frame["strategy"] == "random") | ((frame["round"] == "2") & (frame["seed"] == "1"))
    frame[~gone].to_csv(path, index=False)
    line = told(lambda: TABLE[table](path, file), path)
    assert "14 of 24 rows are missing, this one first; delete it and run again, or give --partial" in line
    # Of the rounds that are left, seed 2 of entropy repeated one.
    assert len(TABLE[table](path, file, True).groupby(list(measured.ROUND))) == 10 - (table != "classes")
    frame.head(0).to_csv(path, index=False)
    assert "no rounds in it" in told(lambda: TABLE[table](path, file, True), path)
    assert "24 of 24 rows are missing" in told(lambda: TABLE[table](path, file), path)


def test_tables_of_diagnostics_must_agree_on_where_trials_stopped(file: StudyFile) -> None:
    """A trial that may stop has a row for each round that it trained, so one table alone cannot show a missing row."""
    path = STATISTICS / "calibration.csv"
    text = path.read_text()
    rows = text.splitlines(keepends=True)
    assert rows[-1].startswith("stops,data,random,2,2,")
    where = "choices.csv: budget stops, dataset data, strategy random, seed 2, round 1, labels 6: the study has no such"
    try:
        path.write_text("".join(rows[:-1]))
        line = told(partial(measured.read_diagnostics, STATISTICS, file), path)
        assert where in line
        assert line.endswith("delete it and calibration.csv, with which it must agree, and run again")
    finally:
        path.write_text(text)
