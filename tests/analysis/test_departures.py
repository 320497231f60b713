"""Rounds of different settings, data or versions are never shown as one study."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lplgrad.analysis import collect
from lplgrad.analysis.departures import behind, departures
from lplgrad.machine.errors import UserError
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import check_reported, read_study
from lplgrad.study.settings import StudyFile
from lplgrad.tools.status import report
from tests.conftest import record_settings

HOME = Path(__file__).parents[2]
STUDY = StudyFile(study=read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]))
LPLGRAD_1 = Trial("small", "digits", "lplgrad", 1)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A finished study, 3 strategies and 2 seeds of 3 rounds, whose files agree with its configuration."""
    monkeypatch.chdir(tmp_path)
    layout = Layout(STUDY.study)
    for trial in layout.trials():
        for number in range(1, 4):
            trained, queried = Path(layout.trained(trial, number)), Path(layout.round(trial, number))
            trained.mkdir(parents=True, exist_ok=True)
            metrics = {"labels": 10 * number, "accuracy": 0.1 * number, "train_loss": 1.0, "stopped": False}
            (trained / "metrics.json").write_text(json.dumps(metrics))
            if number == 1:
                Path(layout.labels(trial, 1)).write_text("index,round,label\n0,1,0\n")
            if number < 3:
                queried.mkdir(parents=True, exist_ok=True)
                (queried / "next_labeled.csv").write_text("index,round,label\n1,1,0\n")
    record_settings(layout)
    return layout


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def put(path: Path, new: dict[str, Any]) -> None:
    edit(path, lambda values: values.update(new))


def test_a_report_of_another_configuration_than_the_one_that_ran_is_refused(layout: Layout) -> None:
    written = Path(layout.root) / "study.yaml"
    written.write_text(yaml.safe_dump(STUDY.model_dump(by_alias=True)))
    check_reported(STUDY.study)
    changed = {"datasets": {"digits": {"training": {"epochs": 3}}}}
    other = read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"], changed)
    with pytest.raises(
        UserError, match=rf"{written}: datasets\.digits\.training\.epochs is 2 there, but 3 in the study"
    ):
        check_reported(other)


def test_a_study_of_one_kind_is_whole(layout: Layout) -> None:
    assert departures(layout) == {}
    assert len(collect.measurements(STUDY)) == 3 * 2 * 3


@pytest.mark.parametrize(
    ("name", "round_number", "first", "change", "problem"),
    [
        (
            "settings.json", 2, 2, lambda v: v["settings"]["training"].update(epochs=30),
            "training.epochs is 30 there, but 2 in the study",
        ),
        (
            "settings.json", 3, 3, lambda v: v["settings"]["recipe"].update({"lambda": 0.5}),
            "recipe.lambda is 0.5 there, but 1.0 in the study",
        ),
        ("settings.json", 2, 2, lambda v: v.update(labels=30), "labels is 30 there, but 20 in the study"),
        (
            "settings.json", 2, 2, lambda v: v.update(target_accuracy=0.5),
            "target_accuracy is 0.5 there, but null in the study",
        ),
        (
            "query_settings.json", 1, 2, lambda v: v["settings"].update(candidates=50),
            "candidates is 50 there, but 60 in the study",
        ),
        (
            "query_settings.json", 2, 3, lambda v: v["settings"]["options"].update(norm="sum"),
            'options.norm is "sum" there, but "global" in the study',
        ),
        (
            "settings.json", 2, 2, lambda v: v["settings"].update(normalization={"mean": [0.5], "std": [0.1]}),
            'normalization is {"mean": [0.5], "std": [0.1]} there, but null in the study',
        ),
        (
            "settings.json", 2, 2, lambda v: v["settings"]["training"].update(warmup=3),
            "unknown key 'warmup'",
        ),
    ],
)  # fmt: skip
def test_other_settings_are_named_and_never_collected(
    layout: Layout, name: str, round_number: int, first: int, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    path = Path(layout.round(LPLGRAD_1, round_number), name)
    edit(path, change)
    found = departures(layout)
    assert list(found) == [LPLGRAD_1]
    assert (found[LPLGRAD_1].round_number, found[LPLGRAD_1].file) == (first, path)
    assert problem in found[LPLGRAD_1].problem
    with pytest.raises(UserError, match=f"{path}: .*run Snakemake with this configuration"):
        collect.measurements(STUDY)
    kept = collect.measurements(STUDY, partial=True)
    assert len(kept) == 3 * 2 * 3 - (4 - first)
    assert kept.query("strategy == 'lplgrad' and seed == 1")["round"].tolist() == list(range(1, first))
    lines = list(report(layout))
    assert lines[0] == "tiny: 5 of 6 trials are done"
    assert [line for line in lines if line.startswith("other settings: ")] == [
        f"other settings: {'train' if name == 'settings.json' else 'query'} in {path.parent}: "
        f"{found[LPLGRAD_1].problem}; it does not count"
    ]


def test_a_shared_first_round_counts_for_each_of_its_trials(layout: Layout) -> None:
    edit(Path(layout.trained(LPLGRAD_1, 1), "settings.json"), lambda v: v["settings"]["training"].update(momentum=0.5))
    assert {trial.strategy for trial in departures(layout)} == {"lplgrad"}
    edit(
        Path(layout.trained(Trial("small", "digits", "random", 2), 1), "settings.json"),
        lambda v: v["settings"]["training"].update(momentum=0.5),
    )
    assert {(trial.strategy, trial.seed) for trial in departures(layout)} == {
        ("lplgrad", 1), ("random", 2), ("entropy", 2),
    }  # fmt: skip


def test_an_absent_key_has_its_default(layout: Layout) -> None:
    for path in Path("results").rglob("*settings.json"):

        def forget(values: dict[str, Any]) -> None:
            values["settings"].pop("compute")
            values["settings"].get("training", {}).pop("momentum", None)
            values["settings"].get("options", {}).pop("norm", None)

        edit(path, forget)
    assert departures(layout) == {}


def test_another_data_set_of_the_same_name_is_noticed(layout: Layout) -> None:
    sums = {f"{split}_{kind}": f"{split} {kind}" for split in ("train", "test") for kind in ("inputs", "labels")}
    for path in Path("results").rglob("*settings.json"):
        edit(path, lambda values: values.update(dataset=sums))
    splits = {s: {f"{k}_sha256": f"{s} {k}" for k in ("inputs", "labels")} for s in ("train", "test")}
    manifest = Path("data/digits/dataset.json")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"splits": splits}))
    assert departures(layout) == {}
    manifest.unlink()
    assert departures(layout) == {}, "all rounds are of one data set"
    splits["train"]["labels_sha256"] = "other"
    manifest.write_text(json.dumps({"splits": splits}))
    assert {found.problem for found in departures(layout).values()} == {"the data set has changed since"}


def test_a_round_without_settings_is_of_an_earlier_version(layout: Layout) -> None:
    Path(layout.round(LPLGRAD_1, 3), "settings.json").unlink()
    assert "missing, so nothing says how this round was run" in departures(layout)[LPLGRAD_1].problem


def test_rounds_of_two_data_sets_are_not_mixed_although_neither_is_here(layout: Layout) -> None:
    edit(Path(layout.round(LPLGRAD_1, 3), "settings.json"), lambda v: v.update(dataset={"train_inputs": "other"}))
    assert departures(layout)[LPLGRAD_1].problem == "the data set has changed since"


def test_a_round_that_trained_on_labels_of_another_query_does_not_count(layout: Layout) -> None:
    """The query was asked again, and the round after it was not trained again yet."""
    labels = Path(layout.labels(LPLGRAD_1, 3))
    labels.write_text("index,round,label\n2,1,0\n")
    found = departures(layout)[LPLGRAD_1]
    assert (found.round_number, found.problem) == (3, f"{labels} has changed since")


@pytest.mark.parametrize("name", ["settings.json", "query_settings.json"])
def test_what_follows_a_round_that_was_trained_again_does_not_count(layout: Layout, name: str) -> None:
    """Of the same labels and settings, as after a change of the code."""
    for number in (1, 2, 3):
        before = {"checkpoint": None if number == 1 else f"model {number - 1}", "trained": f"model {number}"}
        put(Path(layout.trained(LPLGRAD_1, number), "settings.json"), before)
        if number < 3:
            put(Path(layout.round(LPLGRAD_1, number), "query_settings.json"), {"checkpoint": f"model {number}"})
    assert LPLGRAD_1 not in departures(layout)
    put(Path(layout.trained(LPLGRAD_1, 2), "settings.json"), {"trained": "another model"})
    if name == "settings.json":
        put(Path(layout.round(LPLGRAD_1, 2), "query_settings.json"), {"checkpoint": "another model"})
    found = departures(layout)[LPLGRAD_1]
    assert (found.round_number, found.file.name) == (3, name)
    assert found.problem == f"{layout.round(LPLGRAD_1, 2)} has been trained again since"


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("metrics.json", {"accuracy_per_class": [1]}, "accuracy_per_class must be an accuracy or null for each class"),
        ("metrics.json", {"accuracy": 1.5}, "accuracy must be a number from 0 to 1"),
        ("metrics.json", {"accuracy": None}, "accuracy must be a number from 0 to 1"),
        ("metrics.json", {"stopped": ""}, "stopped must be true or false"),
        ("settings.json", {"versions": 1}, "no version of PyTorch in it"),
        ("settings.json", {"versions": {"torch": "a, b"}}, "no version of PyTorch in it"),
    ],
)
def test_a_damaged_result_is_named_where_it_is(layout: Layout, name: str, change: dict[str, Any], problem: str) -> None:
    for path in Path("results").rglob("metrics.json"):
        edit(path, lambda values: values.update(accuracy_per_class={"0": 0.5}))
    path = Path(layout.round(LPLGRAD_1, 2), name)
    edit(path, lambda values: values.update(change))
    read = collect.class_accuracies if "accuracy_per_class" in change else collect.measurements
    with pytest.raises(UserError, match=f"{path}: {problem}"):
        read(STUDY)


def test_a_partial_report_of_other_settings_alone_says_so(
    layout: Layout, lplgrad: Callable[..., tuple[int, str]]
) -> None:
    for path in Path("results").rglob("settings.json"):
        edit(path, lambda values: values["settings"]["training"].update(epochs=30))
    configuration = [HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]
    status, said = lplgrad("report", *configuration, "--partial", "--output", "so_far")
    assert status == 1
    assert "all rounds were run with other settings, for example" in said


def test_broken_settings_are_refused(layout: Layout) -> None:
    Path(layout.round(LPLGRAD_1, 3), "settings.json").write_text('{"settings": {')
    with pytest.raises(UserError, match=r"round3/settings\.json: not JSON, or cut off"):
        collect.measurements(STUDY)


def test_tables_of_several_versions_say_so(layout: Layout, lplgrad: Callable[..., tuple[int, str]]) -> None:
    """Of a table with one version nothing is said."""
    for path in Path("results").rglob("round2/settings.json"):
        edit(path, lambda values: values["versions"].update(torch="1.9"))
    for name in ("mixed", "one"):
        if name == "one":
            record_settings(layout)
        collect.measurements(STUDY).to_csv("measurements.csv", index=False)
        Path("study.yaml").write_text(yaml.safe_dump(STUDY.model_dump(by_alias=True)))
        given = ["--study", "study.yaml", "--measurements", "measurements.csv"]
        assert lplgrad("table", "accuracy", *given, "--output", f"{name}.html")[0] == 0
        assert lplgrad("statistics", *given, "--output", name)[0] == 0
        assert lplgrad("claims", *given, "--output", name)[0] == 0
        for page in (f"{name}.html", f"{name}/statistics.html", f"{name}/claims.html"):
            said = (
                "different versions of PyTorch trained these rounds (6 with 1.9, 12 with 2)" in Path(page).read_text()
            )
            assert said == (name == "mixed"), page


def test_diagnostics_and_figures_of_a_trial_refuse_other_settings(
    layout: Layout, lplgrad: Callable[..., tuple[int, str]]
) -> None:
    Path("study.yaml").write_text(yaml.safe_dump(STUDY.model_dump(by_alias=True)))
    path = Path(layout.round(LPLGRAD_1, 2), "settings.json")
    edit(path, lambda values: values["settings"]["training"].update(epochs=30))
    trial = ["--budget", "small", "--dataset", "digits", "--strategy", "lplgrad", "--seed", "1"]
    for command in (["diagnostics"], ["figure", "chosen", *trial]):
        status, said = lplgrad(*command, "--study", "study.yaml", "--output", "out.png")
        assert status == 1
        assert f"{path}: training.epochs is 30 there, but 2 in the study" in said


@pytest.mark.parametrize(
    ("strategy", "models", "behind_it"),
    [
        # The query of round 2 bought the last labels. Entropy asks the models of rounds 1 and 2, random asks none.
        ("entropy", [], {("settings", 1), ("settings", 2), ("query_settings", 1), ("query_settings", 2)}),
        ("random", [], {("query_settings", 1), ("query_settings", 2)}),
        ("random", [1, 2], {("settings", 1), ("settings", 2), ("query_settings", 1)}),
        ("lplgrad", [2], {("settings", 1), ("settings", 2), ("query_settings", 1)}),
    ],
)
def test_a_figure_refuses_other_settings_only_of_what_it_comes_from(
    layout: Layout, strategy: str, models: list[int], behind_it: set[tuple[str, int]]
) -> None:
    """Under Snakemake other rounds may still wait for their jobs, and their old results lie there until then."""
    trial = Trial("small", "digits", strategy, 1)
    files = behind(layout, trial, max(models, default=3), models)
    for name, of, last in (("settings", layout.trained, 3), ("query_settings", layout.round, 2)):
        for number in range(1, last + 1):
            path = Path(of(trial, number), f"{name}.json")
            before = path.read_text()
            edit(path, lambda values: values.update(seed=7))
            assert departures(layout, [trial]).keys() == {trial}
            assert (departures(layout, [trial], files) != {}) == ((name, number) in behind_it), (name, number)
            path.write_text(before)
    assert departures(layout, [trial], files) == {}


def test_the_seconds_of_a_query_with_other_settings_are_left_out(layout: Layout) -> None:
    timing = {"test_seconds": 1, "peak_memory_mb": 1, "device": "d", "host": "h", "threads": 1, "train_seconds": 1}
    for path in Path("results").rglob("metrics.json"):
        path.with_name("timing.json").write_text(json.dumps(timing))
    for path in Path("results").rglob("next_labeled.csv"):
        path.with_name("query_timing.json").write_text('{"query_seconds": 1, "peak_memory_mb": 1}')
    asked = Path(layout.round(LPLGRAD_1, 2), "query_settings.json")
    edit(asked, lambda values: values["settings"].update(candidates=50))
    trial = collect.timings(STUDY, partial=True).query("strategy == 'lplgrad' and seed == 1")
    assert trial["query_seconds"].isna().tolist() == [False, True]


def test_the_report_says_what_it_leaves_out(layout: Layout, lplgrad: Callable[..., tuple[int, str]]) -> None:
    configuration = [HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]
    for path in Path("results").rglob("metrics.json"):
        edit(path, lambda values: values.update(accuracy_per_class={"0": 0.5}))
        timing = {"train_seconds": 1, "test_seconds": 1, "peak_memory_mb": 1, "device": "d", "host": "h", "threads": 1}
        path.with_name("timing.json").write_text(json.dumps({**timing, "versions": {"torch": "2"}}))
    for path in Path("results").rglob("next_labeled.csv"):
        path.with_name("query_timing.json").write_text('{"query_seconds": 1, "peak_memory_mb": 1}')
    assert lplgrad("report", *configuration, "--output", "whole")[0] == 0
    victim = Path(layout.round(LPLGRAD_1, 2), "settings.json")
    edit(victim, lambda values: values["settings"]["training"].update(epochs=30))
    status, said = lplgrad("report", *configuration, "--output", "refused")
    assert status == 1
    assert f"{victim}: training.epochs is 30 there, but 2 in the study" in said
    assert not Path("refused").exists()
    status, said = lplgrad("report", *configuration, "--partial", "--output", "so_far")
    assert status == 0
    page = Path("so_far/index.html").read_text()
    for text in (said, page):
        assert "16 of 18 rounds" in text
        assert "Left out: rounds of 1 trial(s) that were run with other settings" in text


def test_analysis_imports_neither_torch_nor_matplotlib() -> None:
    modules = ", ".join(f"lplgrad.analysis.{path.stem}" for path in (HOME / "src/lplgrad/analysis").glob("[!_]*.py"))
    script = f"import sys, {modules}; sys.exit(' '.join({{'torch', 'matplotlib'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
