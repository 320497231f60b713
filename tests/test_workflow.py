"""The workflow through Snakemake itself: what runs, what runs again, and that two runs give the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml

from lplgrad.machine.files import private_folder
from tests.runs import (
    HOME,
    ROUNDS,
    ROUNDS_OF_A_STUDY,
    SEEDS,
    STRATEGIES,
    TINY,
    copy_project,
    jobs,
    overlay,
    results,
    rounds,
    snakemake,
    start_snakemake,
)

pytestmark = pytest.mark.slow

DIGITS = "small/digits"  # below the study's folder
# The jobs that write texts (all tables, the three pages and the figure of ranks), and two that read the diagnostics.
PAGES = {"table": 5, "statistics": 1, "diagnostics": 1, "claims": 1, "study_figure": 1, "budget_figure": 2}


def change_a_label(path: Path) -> None:
    """Put another image in the place of the last one of a labelled set."""
    *lines, last = path.read_text().splitlines()
    used = {line.split(",")[0] for line in [*lines, last]}
    other = next(number for number in range(1200) if str(number) not in used)
    path.write_text("\n".join([*lines, f"{other},{last.partition(',')[2]}", ""]))


class TestFresh:
    def test_the_jobs_of_a_study(self, tmp_path: Path) -> None:
        assert rounds(jobs(copy_project(tmp_path))) == ROUNDS_OF_A_STUDY

    def test_a_single_target(self, tmp_path: Path) -> None:
        """One round's scores need the trial up to there, and of the shared start only its own recipe."""
        target = "results/tiny/small/digits/entropy/seed2/round2/scores.csv"
        needed = {"prepare": 1, "start": 1, "train_start": 1, "query": 2, "train": 1}
        assert jobs(copy_project(tmp_path), target) == needed

    def test_random_queries_wait_for_no_training(self, tmp_path: Path) -> None:
        target = "results/tiny/small/digits/random/seed1/round2/scores.csv"
        assert jobs(copy_project(tmp_path), target) == {"prepare": 1, "start": 1, "query": 2}

    def test_until(self, tmp_path: Path) -> None:
        assert jobs(copy_project(tmp_path), "--until", "train_start") == {
            "prepare": 1, "start": SEEDS, "train_start": 2 * SEEDS,
        }  # fmt: skip

    def test_graphs(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        for graph in ("--dag", "--rulegraph", "--filegraph"):
            said = snakemake(project, graph)
            assert "digraph" in said
            assert "train_kept" in said

    def test_a_fresh_recipe_needs_no_checkpoint_before(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        config = overlay(project, recipes={"plain": {"init": "fresh"}})
        target = "results/tiny/small/digits/random/seed1/round3/metrics.json"
        assert jobs(project, target, config=config) == {"prepare": 1, "start": 1, "query": 2, "train_kept": 1}

    def test_the_paper_is_the_default(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        for dataset in ("cifar10", "cifar100", "svhn", "caltech101", "cdd"):
            (project / "data" / dataset).mkdir(parents=True)
            (project / "data" / dataset / "dataset.json").write_text("{}")
        planned = jobs(project, config=None)
        assert sum(count for rule, count in planned.items() if rule.startswith("train")) == 2200
        assert planned["query"] == 2100

    def test_what_cannot_be_had_is_left_out(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        gone = {"source": "image_folder", "path": "nowhere", "budgets": {"small": {"query_size": 2, "labels": 4}}}
        config = overlay(project, datasets__gone=gone, run__datasets=["digits", "gone"])
        said = snakemake(project, "-n", config=config)
        assert "data set gone is left out: nowhere does not exist; place the images there" in said
        assert rounds(jobs(project, config=config)) == ROUNDS_OF_A_STUDY
        failed = {**gone, "source": "digits"}
        failed.pop("path")
        (project / "data" / "failed").mkdir(parents=True)
        (project / "data" / "failed" / "failed_download.txt").write_text("the host is down; delete this file\n")
        config = overlay(project, datasets__failed=failed, run__datasets=["digits", "failed"])
        assert "data set failed is left out: the host is down; delete" in snakemake(project, "-n", config=config)
        config = overlay(project, datasets__gone=gone, run__datasets=["gone"])
        said = snakemake(project, "-n", status=1, config=config)
        assert "none of the study's data sets can be had: data set gone is left out: nowhere does not exist" in said

    def test_names_that_meet_when_they_are_joined_have_files_of_their_own(self, tmp_path: Path) -> None:
        """A data set and a strategy of the one pair, joined by a line, read as those of another pair."""
        project = copy_project(tmp_path)
        digits = yaml.safe_load((HOME / TINY).read_text())["datasets"]["digits"]
        random = {"recipe": "plain", "acquisition": "random"}
        config = overlay(
            project, run__datasets=["digits", "digits_hard"], run__strategies=["random", "hard_random"],
            datasets__digits_hard={**digits, "title": "Hard"}, strategies__hard_random={**random, "title": "Other"},
        )  # fmt: skip
        found = jobs(project, config=config)
        assert found["study_figure"] == 4 + 2 + 4, "strategies, data sets, and four of the study"
        assert found["trial_figure"] == 4

    def test_a_gpu_is_asked_for_where_there_is_one(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        target = "results/tiny/small/digits/entropy/seed2/round1/scores.csv"
        assert len(re.findall("gpu=1", snakemake(project, "-n", target, CUDA_VISIBLE_DEVICES="0,1"))) == 2
        random = target.replace("entropy", "random")
        assert "gpu=1" not in snakemake(project, "-n", random, CUDA_VISIBLE_DEVICES="0,1"), "it asks no model"
        cpu = overlay(project, compute__device="cpu")
        assert "gpu=1" not in snakemake(project, "-n", target, config=cpu, CUDA_VISIBLE_DEVICES="0,1")
        assert "gpu=0" in snakemake(project, "-n", target, CUDA_VISIBLE_DEVICES="")

    def test_mistakes_are_told_before_anything_runs(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        for key, words in [
            ("run__seed", "other.yaml: run: unknown key 'seed' (did you mean 'seeds'?)"),
            ("run__seeds", "other.yaml: run.seeds: list should have at least 1 item"),
        ]:
            said = snakemake(project, status=1, config=overlay(project, **{key: []}))
            assert words in said
            assert "Traceback" not in said
            assert len(said.strip().splitlines()) <= 5, said
        (project / "config.yaml").write_text("study: [")
        assert "config.yaml: line 1, column 9: expected the node content" in snakemake(project, status=1)
        assert not (project / "results").exists()

    def test_a_failing_job_shows_its_line_and_the_others_go_on(self, tmp_path: Path) -> None:
        project = copy_project(tmp_path)
        config = overlay(project, datasets__digits__training__learning_rate=1e30, run__strategies=["random"])
        root = "results/tiny/small/digits"
        targets = [f"{root}/{part}" for part in ("start/seed1/plain/metrics.json", "random/seed2/round2/scores.csv")]
        said = snakemake(project, *targets, status=1, config=config)
        assert "lplgrad train: error: the loss is" in said
        assert "Traceback" not in said
        assert (project / targets[1]).exists()
        assert not list(project.rglob("metrics.json"))


class TestAgain:
    def test_nothing_to_be_done(self, project: Path) -> None:
        assert jobs(project) == {}

    def test_touching_runs_nothing(self, project: Path) -> None:
        for path in project.rglob("*.csv"):
            path.touch()
        (project / "data" / "digits" / "dataset.json").touch()
        (project / "data" / "digits" / "train_inputs.npy").touch()
        assert jobs(project) == {}

    def test_a_strategy_more_runs_only_what_is_new(self, project: Path) -> None:
        before = results(project)
        config = overlay(project, run__strategies=["lplgrad", "entropy", "random", "coreset"])
        new = {"query": SEEDS * (ROUNDS - 1), "train": SEEDS * (ROUNDS - 2), "train_kept": SEEDS}
        assert rounds(jobs(project, config=config)) == new
        snakemake(project, config=config)
        after = results(project)
        changed = {name for name in before if after[name] != before[name]}
        assert "measurements.csv" in changed
        assert not [name for name in changed if name.startswith("small/")], "no file of a round"

    def test_a_data_set_and_a_strategy_with_more_options_run_only_what_is_new(self, project: Path) -> None:
        more = yaml.safe_load((HOME / TINY).read_text())["datasets"]["digits"] | {
            "title": "More", "normalization": {"mean": [0.3], "std": [0.4]}, "augmentation": {"crop_padding": 1},
        }  # fmt: skip
        config = overlay(
            project, datasets__more=more, run__datasets=["digits", "more"],
            strategies__summed={"recipe": "joint", "acquisition": "gradient_norm", "norm": "sum"},
            run__strategies=["lplgrad", "entropy", "random", "summed"],
        )  # fmt: skip
        planned = snakemake(project, "-n", config=config)
        paths = re.findall(r"^    output: (\S+?),? ", planned, re.MULTILINE)
        old = [path for path in paths if "/digits/" in path and "/summed/" not in path and "/small/" in path]
        assert [path for path in old if "/figures/" not in path] == []
        assert any("/summed/" in path for path in paths)

    def test_what_a_cluster_is_given(self, tmp_path: Path) -> None:
        """Trainings, queries, and what looks into many images or models. All else takes seconds."""
        script = """
import sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, ResourceSettings
sys.argv = ["snakemake"]
with SnakemakeApi() as api:
    tiny = ConfigSettings(configfiles=[Path("tests/tiny.yaml")])
    of = api.workflow(ResourceSettings(cores=1), tiny, snakefile=Path("Snakefile"))
    print(*sorted({rule.name for rule in of._workflow.rules} - of._workflow._localrules))
"""
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=copy_project(tmp_path), capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [
            "diagnostics", "observe", "query", "train", "train_kept", "train_start", "trial_figure",
        ]  # fmt: skip

    def test_models_that_were_not_kept_are_trained_again_and_a_line_counts_them(self, project: Path) -> None:
        config = overlay(project, model_figures__strategies=["entropy", "lplgrad"])
        assert "2 round(s) of 1 trial(s) are trained again" in snakemake(project, "-n", config=config)
        assert rounds(jobs(project, config=config)) == {"observe": 2, "train_kept": 2, "query": 1}
        config = overlay(project, keep_checkpoints=True)
        found = rounds(jobs(project, config=config))
        # Of entropy's first seed all models are there; random queries ask none.
        assert found == {"train_kept": 10, "query": 3}
        said = snakemake(project, "-n", config=config)
        assert (
            said.count("10 round(s) of 5 trial(s) are trained again; with the same settings, to the same results") == 1
        )
        assert "trained again" not in snakemake(project, "-n")

    def test_deleted_results_are_asked_for(self, project: Path) -> None:
        """Each with its trial from the newest checkpoint before on."""
        study = project / "results" / "tiny"
        (study / DIGITS / "lplgrad/seed1/round1/query_settings.json").unlink()  # query 2, train 1, train_kept 1
        (study / DIGITS / "lplgrad/seed2/round2/metrics.json").unlink()  # train 1, query 1, train_kept 1
        (study / DIGITS / "random/seed1/round2/next_labeled.csv").unlink()  # query 1, train 1, train_kept 1
        (study / DIGITS / "start/seed2/plain/checkpoint.safetensors").unlink()  # train_start 1, and two trials:
        shutil.rmtree(study / DIGITS / "random/seed2/round3")  # train 1, train_kept 1; entropy: and query 2
        (study / DIGITS / "entropy/seed1/round1/query_timing.json").unlink()  # query 2, train_kept 2, observe 1
        expected = {"train_start": 1, "query": 8, "train": 5, "train_kept": 7, "observe": 1}
        assert rounds(jobs(project)) == expected

    def test_a_deleted_table_is_asked_for(self, project: Path) -> None:
        for name in ("classes.csv", "timings.csv", "tables/datasets.csv"):
            (project / "results" / "tiny" / name).unlink()
        found = jobs(project)
        assert {"measurements", "timings", "table"} <= set(found)
        assert rounds(found) == {}

    def test_a_data_set_without_names_gets_them_and_nothing_else_runs(self, project: Path) -> None:
        """So does a data set that was prepared before there were names."""
        names = project / "data" / "digits" / "files.csv"
        before = names.read_bytes()
        names.unlink()
        listings = list((project / "results" / "tiny" / "figures" / "chosen").rglob("*.csv"))
        assert len(listings) == STRATEGIES
        listings[0].unlink()
        assert jobs(project) == {"files": 1, "chosen_files": STRATEGIES}
        snakemake(project, "data/digits/files.csv")
        assert names.read_bytes() == before

    def test_deleted_results_come_back_with_the_same_bytes(self, finished: Path, project: Path) -> None:
        study = project / "results" / "tiny"
        for name in ("metrics.json", "scores.csv"):
            (study / DIGITS / "random/seed1/round2" / name).unlink()
        (study / "measurements.csv").unlink()
        (study / DIGITS / "entropy/seed2/round3/checkpoint.safetensors").unlink()
        snakemake(project)
        assert results(project) == results(finished)
        assert jobs(project) == {}

    def test_results_of_a_data_set_that_is_gone_stay_as_they_are(self, project: Path) -> None:
        shutil.rmtree(project / "data" / "digits")
        (project / "results" / "tiny" / DIGITS / "random/seed1/round2/scores.csv").unlink()
        (project / "results" / "tiny" / DIGITS / "random/seed1/round3/checkpoint.safetensors").unlink()
        said = snakemake(project, "-n")
        assert "Nothing to be done" in said
        assert "trained again" not in said

    def test_another_spelling_of_the_folder_of_data_runs_nothing(self, project: Path) -> None:
        (project.parent / "disk").mkdir()
        shutil.move(project / "data", project.parent / "disk" / "data")
        (project / "data").symlink_to(project.parent / "disk" / "data")
        for spelling in ("data/", "./data", str(project / "data")):
            assert jobs(project, config=overlay(project, data_dir=spelling)) == {}, spelling

    def test_a_rerun_names_the_key_that_changed(self, project: Path) -> None:
        said = snakemake(project, "-n", config=overlay(project, datasets__digits__training__epochs=3))
        reasons = re.findall("Params have changed.*across all output: (.*)", said)
        assert {reason.strip() for reason in reasons} == {
            "before: 'training.epochs=2' now: 'training.epochs=3'",
            "before: 'datasets.digits.training.epochs=2' now: 'datasets.digits.training.epochs=3'",
        }

    def test_a_seed_more_runs_only_what_is_new(self, project: Path) -> None:
        config = overlay(project, run__seeds=[1, 2, 3])
        found = jobs(project, config=config)
        assert {rule: found[rule] for rule in ("start", "train_start", "train", "train_kept", "query")} == {
            "start": 1, "train_start": 2, "train": 3, "train_kept": 3, "query": 6,
        }  # fmt: skip

    def test_a_round_more_runs_only_what_is_new(self, project: Path) -> None:
        budget = {"query_size": 10, "candidates": 60, "labels": 40}
        config = overlay(project, datasets__digits__budgets__small=budget)
        found = jobs(project, config=config)
        trials = STRATEGIES * SEEDS
        assert rounds(found) == {"query": trials, "train_kept": trials}

    def test_a_start_of_its_own(self, project: Path) -> None:
        """15 labels in round 1, with the classes in proportion to the pool, and 10 more by each query."""
        budget = {"query_size": 10, "candidates": 60, "labels": 35, "start": {"size": 15, "draw": "stratified"}}
        config = overlay(
            project, study="grown", datasets__digits__budgets__small=budget, model_figures={},
            run__strategies=["lplgrad", "ent_gradnorm"],
        )  # fmt: skip
        root = project / "results" / "grown"
        made = ["statistics/areas.csv", "statistics/calibration.csv", "tables/ablation.csv", "tables/budgets.csv"]
        snakemake(project, *(f"results/grown/{name}" for name in made), config=config)
        frame = pd.read_csv(root / "measurements.csv")
        assert sorted(set(zip(frame["round"], frame["labels"], strict=True))) == [(1, 15), (2, 25), (3, 35)]
        for table in ("statistics/rounds.csv", "statistics/calibration.csv"):
            assert set(pd.read_csv(root / table)["labels"]) == {15, 25, 35}
        assert set(pd.read_csv(root / "statistics/choices.csv")["labels"]) == {25, 35}
        assert set(pd.read_csv(root / "statistics/areas.csv")["labels_from"]) == {25}
        found = pd.read_csv(root / "tables/ablation.csv")
        assert found["labels"].tolist() == [11.7, 17.5, 35]
        assert found["interpolated"].tolist() == [True, True, False]
        assert pd.read_csv(root / "tables/budgets.csv").iloc[0]["start"] == 15
        pool = np.bincount(np.load(project / "data/digits/train_labels.npy"))
        for seed in (1, 2):
            drawn = pd.read_csv(root / DIGITS / f"start/seed{seed}/labeled.csv")["label"]
            assert np.abs(np.bincount(drawn, minlength=10) - 15 * pool / pool.sum()).max() < 1
        metrics = json.loads((root / DIGITS / "lplgrad/seed1/round2/metrics.json").read_text())
        assert metrics["labels"] == 25
        assert rounds(jobs(project, config=config)) == {}
        larger = overlay(
            project,
            study="grown",
            model_figures={},
            run__strategies=["lplgrad", "ent_gradnorm"],
            datasets__digits__budgets__small={**budget, "labels": 45},
        )
        assert rounds(jobs(project, config=larger)) == {"query": 4, "train_kept": 4}

    def test_a_changed_label_file_retrains_its_trial_and_no_other(self, project: Path) -> None:
        change_a_label(project / "results/tiny/small/digits/lplgrad/seed1/round1/next_labeled.csv")
        assert rounds(jobs(project)) == {"train": 1, "query": 1, "train_kept": 1}

    def test_a_change_late_in_a_trial_starts_from_the_newest_checkpoint_kept(self, project: Path) -> None:
        folder = "results/tiny/small/digits/lplgrad/seed1/round2"
        keep = ("--config", "keep_checkpoints=True")
        last = folder.replace("round2", "round3/metrics.json")
        snakemake(project, f"{folder}/checkpoint.safetensors", *keep)
        assert jobs(project, last, *keep) == {}
        change_a_label(project / folder / "next_labeled.csv")
        assert jobs(project, last, *keep) == {"train_kept": 1}

    def test_a_setting_reruns_what_it_touches(self, project: Path) -> None:
        margin = overlay(project, recipes={"joint": {"margin": 0.5}})
        found = jobs(project, config=margin)
        assert (found["train_start"], found["train"], found["train_kept"], found["query"]) == (
            SEEDS,
            SEEDS,
            SEEDS,
            2 * SEEDS,
        )
        assert rounds(jobs(project, config=overlay(project, title="Renamed"))) == {}

    def test_what_changes_no_result_reruns_no_round(self, project: Path) -> None:
        config = overlay(project, compute={"jobs_per_gpu": 2, "progress_seconds": 5})
        assert rounds(jobs(project, config=config)) == {}
        config = overlay(project, highlight=["entropy"])
        assert jobs(project, config=config) == {"study_figure": 5, "budget_figure": 4}, (
            "figures that compare strategies"
        )

    @pytest.mark.parametrize(
        ("file", "old", "new", "jobs_again"),
        [
            ("report/tables.py", "Test accuracy (%)", "Accuracy (%)", {"table": 1}),
            ("report/trial_figures.py", "COLUMNS = 10", "COLUMNS = 9", {"trial_figure": STRATEGIES}),
            ("report/comparison_figures.py", "by chance alone", "by chance", {"study_figure": 1}),
            ("report/texts.j2", "Wilcoxon", "Mr Wilcoxon", PAGES),
            ("datasets/prepared/file_names.py", ":05d", ":06d", {}),  # the files may have been deleted since
            ("rounds/loop.py", "\n\n", "\n# why\n\n", {}),
            ("cli.py", "seed of the trial", "the trial's seed", {}),
        ],
    )
    def test_an_edit_reruns_what_it_touches(
        self, project: Path, file: str, old: str, new: str, jobs_again: dict[str, int]
    ) -> None:
        path = project / "src" / "lplgrad" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        assert jobs(project) == jobs_again

    def test_an_edit_of_training_retrains_everything(self, project: Path) -> None:
        path = project / "src" / "lplgrad" / "rounds" / "loop.py"
        path.write_text(path.read_text().replace("range(steps)", "range(steps + 0)"))
        assert re.search("before: 'code=[0-9a-f]{16}' now: 'code=[0-9a-f]{16}'", snakemake(project, "-n"))
        found = jobs(project)
        assert (found["train_start"], found["train"], found["train_kept"]) == (4, 5, 7)
        assert "start" not in found
        assert "prepare" not in found

    def test_what_is_kept(self, project: Path) -> None:
        """Of the start and of the last round the checkpoint, and what model_figures names; others were temporary."""
        kept = sorted(
            str(path.relative_to(project / "results/tiny/small/digits").parent)
            for path in project.rglob("*.safetensors")
        )
        assert kept == sorted(
            ["entropy/seed1/round2"]  # which is looked into
            + [f"start/seed{seed}/{recipe}" for seed in (1, 2) for recipe in ("joint", "plain")]
            + [f"{name}/seed{seed}/round3" for name in ("lplgrad", "entropy", "random") for seed in (1, 2)]
        )


class TestResults:
    def test_strategies_of_a_seed_are_paired(self, finished: Path) -> None:
        frame = pd.read_csv(finished / "results/tiny/measurements.csv")
        first = frame[frame["round"] == 1].pivot(index="seed", columns="strategy", values="accuracy")
        assert (first["entropy"] == first["random"]).all()
        root = finished / "results/tiny/small/digits"
        one, other = (pd.read_csv(root / name / "seed1/round1/scores.csv")["index"] for name in ("lplgrad", "random"))
        assert one.equals(other), "round 1 asks the same candidates"

    def test_accuracy_is_that_of_the_logits(self, finished: Path) -> None:
        labels = np.load(finished / "data/digits/test_labels.npy")
        frame = pd.read_csv(finished / "results/tiny/measurements.csv").query("strategy == 'lplgrad' and seed == 2")
        for row in frame.itertuples():
            part = "start/seed2/joint" if row.round == 1 else f"lplgrad/seed2/round{row.round}"
            logits = np.load(finished / f"results/tiny/small/digits/{part}/test_logits.npy")
            assert (logits.argmax(1) == labels).mean() == row.accuracy

    def test_every_job_has_a_log_and_a_record_of_what_it_used(self, finished: Path) -> None:
        count = sum(jobs(finished, "--forceall").values())
        logs = list((finished / "logs").rglob("*.log"))
        assert len(logs) == count
        assert [log for log in logs if not log.with_suffix(".tsv").exists()] == []
        assert [log for log in logs if "no fork server" in log.read_text()] == []

    def test_neither_a_finished_nor_a_dry_run_leaves_a_fork_server(self, project: Path) -> None:
        before = set(private_folder().glob("*.socket"))
        snakemake(project, "-n", "--forceall")
        shutil.rmtree(project / "results/tiny/tables")
        snakemake(project)
        assert not set(private_folder().glob("*.socket")) - before
        assert (project / "logs/tiny/tables/accuracy.tsv").exists(), "there was one"

    def test_without_hooks_every_job_is_a_new_process(self, project: Path) -> None:
        shutil.rmtree(project / "results/tiny/tables")
        snakemake(project, "--no-hooks")
        log = (project / "logs/tiny/tables/accuracy.log").read_text()
        assert log == "lplgrad table: no fork server; starting a new process\n"


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run was killed with all its jobs, twice, and taken up again."""
    project = copy_project(tmp_path_factory.mktemp("killed"))
    for wanted in (2, 7):
        process = start_snakemake(project)
        while len(list(project.rglob("metrics.json"))) < wanted:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        snakemake(project, "--unlock")
    snakemake(project)
    return project


class TestKilled:
    def test_the_same_bytes_as_undisturbed(self, finished: Path, killed: Path) -> None:
        undisturbed, resumed = results(finished), results(killed)
        assert list(undisturbed) == list(resumed)
        assert [name for name in undisturbed if undisturbed[name] != resumed[name]] == []

    def test_nothing_half_written_is_left(self, killed: Path) -> None:
        assert not list(killed.rglob(".*.tmp"))

    def test_a_model_that_snakemake_could_not_delete_is_deleted_at_the_next_end(self, project: Path) -> None:
        study = project / "results" / "tiny"
        left = study / "small/digits/random/seed1/round2/checkpoint.safetensors"
        kept = [
            left.parents[1] / "round3/checkpoint.safetensors",
            study / "small/digits/entropy/seed1/round2/checkpoint.safetensors",
        ]
        left.write_bytes(b"")
        os.utime(left, (0, 0))
        (study / "tables" / "time.html").unlink()
        snakemake(project, "--notemp")
        assert left.exists()
        (study / "tables" / "time.html").unlink()
        snakemake(project)
        assert not left.exists()
        assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("results/tiny/small/digits/start/seed1/plain/checkpoint.safetensors", "not a whole safetensors file"),
        ("results/tiny/small/digits/entropy/seed2/round1/next_labeled.csv", "cut off within its last line; delete it"),
        ("results/tiny/small/digits/entropy/seed2/round1/test_scores.csv", "cut off within its last line; delete it"),
    ],
)
def test_a_file_cut_off_is_named_and_deleting_it_heals(finished: Path, project: Path, file: str, words: str) -> None:
    """Of a study that is not finished, where Snakemake looks for all files; else it makes what is asked for."""
    for path in (project / "results" / "tiny").iterdir():
        if path.name != "small":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    path = project / file
    os.truncate(path, path.stat().st_size - 1)
    said = snakemake(project, status=1)
    assert f"{file}: {words}" in " ".join(said.split())
    assert "Traceback" not in said
    path.unlink()
    snakemake(project)
    assert results(project) == results(finished)


def test_other_weights_train_again_and_another_date_does_not(tmp_path: Path) -> None:
    """Whatever their date is: files that are copied from elsewhere keep an old one."""
    project = copy_project(tmp_path)
    values = yaml.safe_load((project / TINY).read_text())
    values["run"] |= {"strategies": ["entropy", "random"], "seeds": [1]}
    values["model_figures"]["strategies"] = []
    row = {"name": "torchvision", "model": "mobilenet_v3_small", "weights": "weights.pth", "freeze": True}
    values["datasets"]["digits"]["backbone"] = row
    (project / "mine.yaml").write_text(yaml.safe_dump(values))
    missing = snakemake(project, "-n", config="mine.yaml", status=1)
    assert "datasets.digits.backbone: no file weights.pth" in missing
    file = project / "weights.pth"
    states = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(torchvision.models.mobilenet_v3_small(weights=None).state_dict())
    torch.save(states[0], file)
    snakemake(project, "--cores", "2", "results/tiny/measurements.csv", config="mine.yaml")
    os.utime(file)
    assert jobs(project, "results/tiny/measurements.csv", config="mine.yaml") == {}
    torch.save(states[1], file)
    os.utime(file, (1e9, 1e9))
    again = jobs(project, "results/tiny/measurements.csv", config="mine.yaml")
    assert {"train_start", "train", "query", "measurements"} <= again.keys()
    command = [sys.executable, "-m", "lplgrad", "measurements", "--study", "results/tiny/study.yaml", "--output", "out"]
    refused = subprocess.run(
        command, cwd=project, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "files.weights.pth is" in refused.stderr
