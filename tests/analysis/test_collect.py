"""The measurements, timings and class accuracies of a study, collected from the files of its rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from lplgrad.analysis import collect
from lplgrad.machine.errors import UserError
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile
from tests.conftest import record_settings

HOME = Path(__file__).parents[2]
STUDY = StudyFile(study=read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A study's files, with numbers that tell where they came from."""
    monkeypatch.chdir(tmp_path)
    layout = Layout(STUDY.study)
    for trial in layout.trials():
        for number in range(1, 4):
            folder = Path(layout.trained(trial, number))
            folder.mkdir(parents=True, exist_ok=True)
            accuracy = 0.1 * number + 0.01 * trial.seed
            metrics = {"labels": 10 * number, "accuracy": accuracy, "train_loss": 1.0, "stopped": False}
            per_class = {"0": accuracy, "1": None}
            (folder / "metrics.json").write_text(json.dumps({**metrics, "accuracy_per_class": per_class}))
            timing = {"train_seconds": number, "test_seconds": 0.5, "peak_memory_mb": 9, "device": "d", "host": "h"}
            (folder / "timing.json").write_text(json.dumps({**timing, "threads": 1, "versions": {"torch": "2"}}))
            if number < 3:
                Path(layout.round(trial, number)).mkdir(parents=True, exist_ok=True)
                query = {"query_seconds": 0.1 * number, "peak_memory_mb": 8}
                (Path(layout.round(trial, number)) / "query_timing.json").write_text(json.dumps(query))
    record_settings(layout)
    return layout


def test_one_row_a_round(files: Layout) -> None:
    frame = collect.measurements(STUDY)
    assert len(frame) == 3 * 2 * 3
    assert not frame.duplicated(["budget", "dataset", "strategy", "seed", "round"]).any()
    row = frame.query("strategy == 'entropy' and seed == 2 and round == 3").iloc[0]
    assert (row["labels"], row["accuracy"], row["recipe"]) == (30, pytest.approx(0.32), "plain")
    assert set(frame["torch"]) == {"2"}


def test_one_row_a_class(files: Layout) -> None:
    frame = collect.class_accuracies(STUDY)
    assert len(frame) == 3 * 2 * 3 * 2
    assert frame.query("seed == 1 and round == 1 and strategy == 'random'")["accuracy"].tolist() == [0.11, None]


def test_the_last_round_has_no_query(files: Layout) -> None:
    frame = collect.timings(STUDY).query("strategy == 'random' and seed == 1")
    assert frame["query_seconds"].tolist()[:2] == pytest.approx([0.1, 0.2])
    assert np.isnan(frame["query_seconds"].tolist()[2])
    assert frame["train_seconds"].tolist() == [1, 2, 3]


def test_a_missing_or_foreign_file_is_told_and_partly_there_is_partly_read(files: Layout) -> None:
    victim = next(iter(Path("results").rglob("round2/metrics.json")))
    victim.write_text("{}")
    with pytest.raises(UserError, match=rf"{victim}: 'accuracy' is missing"):
        collect.measurements(STUDY)
    victim.unlink()
    with pytest.raises(UserError, match=rf"{victim}: missing: the study is not finished"):
        collect.measurements(STUDY)
    assert len(collect.measurements(STUDY, partial=True)) == 3 * 2 * 3 - 1


def test_a_finished_study_with_a_gap_is_reported_whole(files: Layout, lplgrad: Callable[..., tuple[int, str]]) -> None:
    """Of the gap the study's own folder tells; what is only not finished is an error still."""
    gap = {"source": "svhn", "budgets": {"small": {"query_size": 10, "labels": 30}}}
    overlay = yaml.safe_load((HOME / "tests" / "tiny.yaml").read_text())
    overlay["datasets"]["gone"] = gap
    overlay["run"]["datasets"].append("gone")
    Path("gap.yaml").write_text(yaml.safe_dump(overlay))
    configuration = [HOME / "config.yaml", Path("gap.yaml")]
    file = StudyFile(study=read_study(configuration), unavailable={"gone": "nobody has it"})
    arguments = ["report", *configuration, "--output", "out"]
    assert lplgrad(*arguments)[0] == 1, "no run has told of the gap"
    Path(files.root, "study.yaml").write_text(yaml.safe_dump(file.model_dump(by_alias=True)))
    assert lplgrad(*arguments)[0] == 0
    assert "18 of 18 rounds of A tiny study. gone is missing: nobody has it." in Path("out/index.html").read_text()
    assert "gone is missing: nobody has it." in Path("out/accuracy.html").read_text()
    next(iter(Path("results").rglob("round2/metrics.json"))).unlink()
    assert lplgrad(*arguments)[0] == 1
