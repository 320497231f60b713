"""Labels that a trial has bought: what curves and tables count, where round 1 has another number than a query buys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lplgrad.analysis import collect, diagnostics
from lplgrad.analysis.measured import read_diagnostics, read_measurements
from lplgrad.cli import main
from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.paper import ablation, tables
from lplgrad.paper.claimed import Measured
from lplgrad.study.layout import Layout
from lplgrad.study.settings import StudyFile
from tests.finished_study import finish, study_of

ROOT = Path("results/tiny")
SPENT = {"query_size": 3, "candidates": 7, "labels": 11, "start": {"size": 5}}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    """A finished study of three rounds with 5, 8 and 11 labels; with the budget ``stops``, seed 2 stops with 8."""
    monkeypatch.chdir(tmp_path)
    values = study_of(budgets=["small", "stops"], strategies=["lplgrad", "ent_gradnorm"])
    values["datasets"]["data"]["budgets"] = {"small": SPENT, "stops": {**SPENT, "target_accuracy": 0.6}}
    file = finish(values, ["a", "b", "c"], lambda trial, number: 0.1 * number + 0.2 * trial.seed)
    Path("study.yaml").write_text(yaml.safe_dump(file.model_dump(by_alias=True, mode="json")))
    return file


def of_trial(frame: pd.DataFrame, budget: str, seed: int) -> list[int]:
    rows = frame.query(f"budget == '{budget}' and seed == {seed} and strategy == 'lplgrad'")
    return [int(value) for value in rows.sort_values("round")["labels"]]


def test_measurements_count_what_was_bought(file: StudyFile) -> None:
    """Whatever was trained on, which metrics.json has."""
    for path in ROOT.rglob("metrics.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "labels": 2}))
    assert main(["measurements", "--study", "study.yaml", "--output", str(ROOT)]) == 0
    for name in ("measurements", "classes"):
        frame = pd.read_csv(ROOT / f"{name}.csv").drop_duplicates(["budget", "strategy", "seed", "round"])
        assert list(frame).index("labels") == list(frame).index("round") + 1
        assert of_trial(frame, "small", 1) == of_trial(frame, "small", 2) == of_trial(frame, "stops", 1) == [5, 8, 11]
        assert of_trial(frame, "stops", 2) == [5, 8, 8]
    read = read_measurements(ROOT / "measurements.csv", file)
    assert of_trial(read, "stops", 2) == [5, 8]
    table = ablation.ablation_table(read, file).query("budget == 'small'")
    assert table["labels"].tolist() == [3.7, 5.5, 11]
    assert table["interpolated"].tolist() == [True, True, False]
    assert table["seeds"].tolist() == [0, 2, 2], "no curve reaches back to a third of the budget"
    found = Measured(read, Layout(file.study).bought).budgets
    assert found["small", "data"] == [5, 8, 11]


def test_a_round_that_repeats_a_missing_one_is_left_out(file: StudyFile) -> None:
    (ROOT / "stops/data/lplgrad/seed2/round2/metrics.json").unlink()
    found = collect.measurements(file, partial=True)
    assert of_trial(found, "stops", 2) == [5]
    assert of_trial(found, "stops", 1) == [5, 8, 11]


def test_tables_of_diagnostics_count_what_was_bought(file: StudyFile) -> None:
    assert main(["diagnostics", "--study", "study.yaml", "--output", str(ROOT / "statistics")]) == 0
    found = read_diagnostics(ROOT / "statistics", file)
    assert of_trial(found["calibration"], "stops", 1) == [5, 8, 11]
    assert of_trial(found["calibration"], "stops", 2) == [5, 8]
    for name in ("choices", "overlap"):
        assert of_trial(found[name], "stops", 1) == [8, 11]
    layout = Layout(file.study)
    trial, data = next(layout.trials()), open_dataset(Path("data/data"))
    path = Path(layout.labels(trial, 2))
    path.write_text(re.sub(r"^([0-9]+),1,", r"\1,2,", path.read_text(), count=1, flags=re.MULTILINE))
    with pytest.raises(UserError, match=r"next_labeled\.csv: 4 labels of round 1, not 5; delete it"):
        diagnostics.labeled_set(layout, trial, 2, data)


def test_the_labels_of_round_1_have_a_row_in_table_2(file: StudyFile) -> None:
    table = tables.budgets_table(file)
    assert list(table) == ["budget", "dataset", "query_size", "start", "candidates", "labels", "rounds"]
    assert table[["query_size", "start", "labels", "rounds"]].to_numpy().tolist() == [[3, 5, 11, 3]] * 2
    assert ("labels of round 1", "5") in tables.budgets_parts(table, file)[0].rows


def test_a_label_that_nobody_knows_counts_for_no_balance(file: StudyFile) -> None:
    """Of three images that a query chose, one is of class a, one of b, and one is unknown."""
    layout = Layout(file.study)
    trial = next(layout.trials())
    path = Path(layout.labels(trial, 2))
    *before, one, two, three = path.read_text().splitlines()
    lines = [f"{line.rpartition(',')[0]},{label}" for line, label in zip((one, two, three), (0, 1, -1), strict=True)]
    path.write_text("\n".join([*before, *lines, ""]))
    row = diagnostics.choices(file).query("budget == 'small' and strategy == 'lplgrad' and seed == 1").iloc[0]
    assert row["labels"] == 8
    assert row["balance"] == pytest.approx(0.6309297535714574), "log 2 over log 3"
