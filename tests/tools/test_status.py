"""How far a study is, told from files made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lplgrad.cli import main
from lplgrad.machine import locks
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study
from lplgrad.tools.status import report, seconds_left, status_of
from tests.conftest import record_settings

HOME = Path(__file__).parents[2]
FILES = [HOME / "config.yaml", HOME / "tests/tiny.yaml"]  # 3 strategies, 2 seeds, 3 rounds of 10 labels
ROOT = Path("results/tiny/small/digits")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The tiny study in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Layout(read_study(FILES))


def trained(folder: Path, number: int, accuracy: float, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"round": number, "labels": 10 * number, "accuracy": accuracy}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "timing.json").write_text(json.dumps({"train_seconds": seconds}))


def queried(folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "next_labeled.csv").write_text("index,round,label\n1,1,0\n")
    (folder / "query_timing.json").write_text(json.dumps({"query_seconds": seconds}))


def log(folder: Path, kind: str, text: str) -> None:
    path = Path("logs", *folder.parts[1:], f"{kind}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nothing_yet(layout: Layout) -> None:
    lines = list(report(layout))
    assert lines[0] == "tiny: 0 of 6 trials are done"
    # 2 seeds x 2 recipes of round 1, 6 trials x 2 later rounds, 6 x 2 queries
    assert lines[-1] == "left: 28 trainings and queries whose time is not known yet"


def test_columns_are_apart_if_all_names_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.yaml").write_text("run: {strategies: [random]}")
    assert any(
        "strategy  accuracy in round" in line for line in report(Layout(read_study([*FILES, tmp_path / "random.yaml"])))
    )


def test_where_a_trial_stands_and_what_is_left(layout: Layout) -> None:
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    queried(ROOT / "entropy/seed1/round1", 3.0)
    trained(ROOT / "entropy/seed1/round2", 2, 0.6, 40.0)
    record_settings(layout)
    found = status_of(layout, Trial("small", "digits", "entropy", 1))
    assert (found.trained, found.queried, found.accuracies) == (2, 1, [0.5, 0.6])
    assert found.seconds_per_label == 2.0
    assert found.next is not None
    assert found.next.kind == "query"
    # Round 3 trains on 30 labels at 2 seconds each, and one query is left.
    assert seconds_left(layout, [found]) == (60 + 3, 0)
    # random shares round 1: rounds 2 and 3, at the rate of round 1, and two queries as entropy's was.
    random = status_of(layout, Trial("small", "digits", "random", 1))
    assert random.trained == 1
    assert seconds_left(layout, [random, found]) == (2 * 20 + 2 * 30 + 2 * 3 + 60 + 3, 0)
    lines = list(report(layout))
    assert any(line.split() == ["entropy", "0.6000", "2", "40.0", "3.00", "2", "0"] for line in lines)


def test_what_is_left_of_a_start_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds 2 and 3 train on 25 and 35 labels, at 2 seconds each; 10 of those of round 1 are known."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.yaml").write_text(
        "datasets: {digits: {budgets: {small: {start: {size: 15}, query_size: 10, labels: 35}}}}"
    )
    layout = Layout(read_study([*FILES, tmp_path / "start.yaml"]))
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    record_settings(layout)
    found = status_of(layout, Trial("small", "digits", "entropy", 1))
    assert seconds_left(layout, [found]) == (2 * 25 + 2 * 35, 2)


def test_what_runs_failed_or_was_killed(layout: Layout) -> None:
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    log(ROOT / "entropy/seed1/round1", "query", "lplgrad query: error: data/digits: no prepared data set here\n")
    log(ROOT / "start/seed2/plain", "train", "round 1\nepoch 1/9  loss 2.0\nepoch 2/9  loss 1.0\n")
    log(ROOT / "random/seed1/round1", "query", "round 1\nKilled\n")
    record_settings(layout)
    with locks.alone(ROOT / "start/seed2/plain", "train"):
        lines = list(report(layout))
    assert f"running: train in {ROOT}/start/seed2/plain, epoch 2/9" in lines, "once, for two strategies"
    assert [line for line in lines if line.startswith("failed: ")] == [
        "failed: logs/tiny/small/digits/entropy/seed1/round1/query.log: "
        "lplgrad query: error: data/digits: no prepared data set here"
    ]
    assert [line for line in lines if line.startswith("stopped: ")] == [
        "stopped: logs/tiny/small/digits/random/seed1/round1/query.log: without a word, as if killed; last line: Killed"
    ]


def test_a_failed_training_is_told_although_an_old_query_of_its_round_has_other_settings(layout: Layout) -> None:
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    queried(ROOT / "entropy/seed1/round1", 3.0)
    queried(ROOT / "entropy/seed1/round2", 3.0)
    log(ROOT / "entropy/seed1/round2", "train", "lplgrad train: error: out of memory\n")
    record_settings(layout)
    path = ROOT / "entropy/seed1/round2/query_settings.json"
    values = json.loads(path.read_text())
    values["settings"]["candidates"] = 50
    path.write_text(json.dumps(values))
    lines = list(report(layout))
    assert f"failed: logs/{path.parent.relative_to('results')}/train.log: lplgrad train: error: out of memory" in lines
    assert not [line for line in lines if line.startswith("other settings: ")]


def test_seeds_are_averaged_at_a_round_that_each_has_reached(layout: Layout) -> None:
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    queried(ROOT / "entropy/seed1/round1", 3.0)
    trained(ROOT / "entropy/seed1/round2", 2, 0.9, 40.0)
    trained(ROOT / "start/seed2/plain", 1, 0.3, 20.0)
    record_settings(layout)
    assert any(line.split() == ["entropy", "0.4000", "1", "30.0", "3.00", "2", "1"] for line in report(layout))


def test_what_jobs_take_to_start_and_end_is_left_too(layout: Layout) -> None:
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    queried(ROOT / "entropy/seed1/round1", 3.0)
    for folder, kind, seconds in (
        (ROOT / "start/seed1/plain", "train", 26),
        (ROOT / "entropy/seed1/round1", "query", 8),
    ):
        log(folder, kind, "done\n")
        Path("logs", *folder.parts[1:], f"{kind}.tsv").write_text(f"s\th:m:s\n{seconds}\t0:00:{seconds}\n")
    # Rounds 2 and 3 at 2 seconds a label and 6 besides, and one query.
    found = status_of(layout, Trial("small", "digits", "entropy", 1))
    assert seconds_left(layout, [found]) == (40 + 6 + 60 + 6 + 8, 0)


def test_failures_of_other_rules_are_told_and_an_interrupted_job_did_not_fail(layout: Layout) -> None:
    path = Path("logs/tiny/digits/prepare.log")
    path.parent.mkdir(parents=True)
    path.write_text("lplgrad prepare: error: data/downloads: disk full\n")
    log(ROOT / "start/seed1/plain", "train", "epoch 1/9\nlplgrad train: error: ended by SIGINT\n")
    lines = list(report(layout))
    assert "failed: logs/tiny/digits/prepare.log: lplgrad prepare: error: data/downloads: disk full" in lines
    train_log = f"logs/{ROOT.relative_to('results')}/start/seed1/plain/train.log"
    assert f"stopped: {train_log}: lplgrad train: error: ended by SIGINT" in lines
    assert sum(line.startswith("failed: ") for line in lines) == 1


def test_a_broken_measurement_is_named_and_the_rest_told(layout: Layout) -> None:
    trained(ROOT / "start/seed1/plain", 1, 0.5, 20.0)
    (ROOT / "start/seed1/plain/metrics.json").write_text('{"accuracy"')
    record_settings(layout)
    lines = list(report(layout))
    assert any(line.startswith("broken: ") and "metrics.json: not JSON, or cut off" in line for line in lines)
    assert any(line.split()[:1] == ["lplgrad"] for line in lines)


def test_the_command_reads_little_and_imports_less(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", *map(str, FILES)]) == 0
    assert capsys.readouterr().out.startswith("tiny: 0 of 6 trials are done\n")
    script = (
        "import sys; from lplgrad.cli import main; main(sys.argv[1:]);"
        "sys.exit(' '.join({'torch', 'pandas', 'snakemake'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script, "status", *map(str, FILES)], check=True, capture_output=True)
