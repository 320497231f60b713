"""What a study will cost: the arithmetic by hand, the sizes against the files that jobs write."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.rounds import evaluation, needs, optimizers
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import BackboneRow, RecipeRow, Start
from lplgrad.tools.estimate import checkpoint_bytes, estimate, peak_bytes
from lplgrad.tools.rates import measure_rates, read_rates
from tests.conftest import TRAIN
from tests.learners import JOINT, PLAIN, learner_of, saved

HOME = Path(__file__).parents[2]
STUDY = """
study: small
title: by hand
data_dir: nowhere
run: {budgets: [low], datasets: [digits], strategies: [lplgrad, coreset, random], seeds: [1, 2]}
recipes: {plain: {trains: plain}, joint: {trains: joint}}
strategies:
  lplgrad: {recipe: joint, acquisition: gradient_norm}
  coreset: {recipe: plain, acquisition: coreset}
  random: {recipe: plain, acquisition: random}
datasets:
  digits:
    source: digits
    backbone: {name: small_resnet}
    training: {epochs: 10, milestones: []}
    budgets: {low: {query_size: 20, candidates: 100, labels: 60}}
"""
MODEL = "small_resnet, 8x8x1, float32"
RATES = {
    (MODEL, "train plain"): 0.5,
    (MODEL, "train joint"): 1.0,
    (MODEL, "predict"): 0.125,
    (MODEL, "gradient norms"): 0.25,
    ("any model", "k-center"): 0.0625,
    ("any model", "start a job"): 2.0,
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two seeds of three strategies, three rounds each."""
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return Layout(read_study([path]))


def test_the_arithmetic_is_that_of_a_hand_worked_example(layout: Layout) -> None:
    (cost,) = estimate(layout, RATES)
    # A seed: round 1 once for each of two recipes, rounds 2 and 3 of three strategies; two queries a trial.
    assert cost.trainings == 2 * (2 + 3 * 2)
    assert cost.queries == 2 * 3 * 2
    assert cost.image_epochs == 2 * 10 * (2 * 20 + 3 * (40 + 60))
    joint, plain = 10 * (20 + 40 + 60) * 1.0, 10 * (20 + 2 * (40 + 60)) * 0.5
    assert cost.training_seconds == 2 * (joint + plain + 8 * 597 * 0.125)
    lplgrad = 2 * (100 + 597) * 0.25  # with the test images that are scored after the candidates
    coreset = (100 + 20 + 100 + 40) * 0.125 + 100 * (20 + 20 + 40 + 20) * 0.0625
    assert cost.query_seconds == 2 * (lplgrad + coreset)
    assert cost.start_seconds == 2.0 * (16 + 12)
    # The longest trial: lplgrad or coreset, its three trainings and two queries.
    assert (
        cost.longest_seconds
        == max(joint + 3 * 597 * 0.125 + lplgrad, 10 * 120 * 0.5 + 3 * 597 * 0.125 + coreset) + 5 * 2
    )
    plain_model, joint_model = (
        checkpoint_bytes(BackboneRow(name="small_resnet"), recipe, (1, 8, 8), 10) for recipe in (PLAIN, JOINT)
    )
    tables = 2 * 3 * (2 * 36 * 100 + 11 * (40 + 60)) + 2 * 2 * 25 * 597
    # Kept a seed: the starts of two recipes, the last rounds of three strategies.
    assert cost.final_bytes == 2 * (2 * joint_model + 3 * plain_model) + 16 * 597 * 10 * 4 + tables
    assert peak_bytes([cost], jobs=2) == cost.final_bytes + 2 * 3 * joint_model


def test_a_start_of_its_own_is_counted(layout: Layout) -> None:
    """5 labels in round 1, then 25, 45 and 65."""
    low = layout.study.datasets["digits"].budgets["low"]
    budget = low.model_copy(update={"start": Start(size=5), "labels": 65})
    digits = layout.study.datasets["digits"].model_copy(update={"budgets": {"low": budget}})
    study = layout.study.model_copy(update={"datasets": {**layout.study.datasets, "digits": digits}})
    (cost,) = estimate(Layout(study), RATES)
    assert cost.image_epochs == 2 * 10 * (2 * 5 + 3 * (25 + 45 + 65))
    lplgrad = 3 * (100 + 597) * 0.25
    coreset = (3 * 100 + 5 + 25 + 45) * 0.125 + 100 * (25 + 45 + 65) * 0.0625
    assert cost.query_seconds == 2 * (lplgrad + coreset)


def test_the_whole_paper_is_1_8_billion_image_epochs() -> None:
    study = read_study([HOME / "config.yaml"])
    total = 0
    for budget in study.run.budgets:
        for name in study.run.datasets:
            row = study.datasets[name].budgets[budget]
            labels = [row.query_size * number for number in range(1, row.rounds + 1)]
            # Of six strategies two train jointly and four plainly; they share round 1.
            total += 5 * study.datasets[name].training.epochs * (2 * labels[0] + 6 * sum(labels[1:]))

    class AnyRate(dict[tuple[str, str], float]):
        def __missing__(self, key: tuple[str, str]) -> float:
            return 1.0

    assert sum(cost.image_epochs for cost in estimate(Layout(study), AnyRate())) == total == 1_808_900_000


@pytest.mark.parametrize("recipe", [PLAIN, JOINT])
@pytest.mark.parametrize(
    "row", [{"name": "small_resnet"}, {"name": "resnet18", "stem": "imagenet", "width": 8}], ids=["small", "narrow"]
)
def test_the_size_of_a_checkpoint_is_that_of_the_file(tmp_path: Path, row: dict[str, Any], recipe: RecipeRow) -> None:
    backbone, shape = BackboneRow.model_validate(row), (3, 8, 8)
    saved(tmp_path / "c", learner_of(recipe, backbone, shape, 7), backbone, recipe, shape, 7)
    written = (tmp_path / "c").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "c").read_bytes()[:8], "little")
    assert written - header == checkpoint_bytes(backbone, recipe, shape, 7)


def write_rates(path: Path) -> Path:
    """A file of rates as the benchmarks write it, with a row that is none."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["benchmark", "setting", "case", "unit", "n", "median"])
        writer.writerow(["training", "elsewhere", "plain", "ms", 3, 7])
        writer.writerows(["rates", key, task, "s", 3, value] for (key, task), value in RATES.items())
    return path


def test_rates_are_read_from_the_benchmarks_table(tmp_path: Path) -> None:
    assert read_rates(write_rates(tmp_path / "rates.csv")) == RATES


def test_a_wrong_file_and_a_missing_rate_are_told_in_one_line(
    tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]
) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    for text, words in (("a,b\n1,2\n", "no rates in it"), ("benchmark,setting\nrates,x\n", "not a table")):
        (tmp_path / "wrong.csv").write_text(text)
        status, told = lplgrad("estimate", tmp_path / "small.yaml", "--rates", tmp_path / "wrong.csv")
        assert (status, told.count("\n")) == (1, 1)
        assert words in told
    text = write_rates(tmp_path / "rates.csv").read_bytes().decode()
    last = text.rstrip().rsplit(",", 1)
    for damaged, words in (
        (text[:-3], "cut off within its last line"),
        (f"{last[0]},-{last[1]}\r\n", "seconds; measure the rates again"),
        (f"{last[0]},inf\r\n", "takes inf seconds; measure the rates again"),
    ):
        (tmp_path / "wrong.csv").write_bytes(damaged.encode())
        status, told = lplgrad("estimate", tmp_path / "small.yaml", "--rates", tmp_path / "wrong.csv")
        assert (status, told.count("\n")) == (1, 1)
        assert words in told
    rates = write_rates(tmp_path / "rates.csv")
    (tmp_path / "other.yaml").write_text("compute: {precision: bfloat16}\n")
    status, told = lplgrad("estimate", tmp_path / "small.yaml", tmp_path / "other.yaml", "--rates", rates)
    assert (status, told.count("\n")) == (1, 1)
    assert "bfloat16" in told


@pytest.mark.parametrize("options", [[], ["--measure", "--rates", "rates.csv"]])
def test_rates_are_measured_or_read(
    tmp_path: Path, lplgrad: Callable[..., tuple[int, str]], options: list[str]
) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    assert lplgrad("estimate", tmp_path / "small.yaml", *options) == (
        1, "lplgrad estimate: error: give either --rates or --measure\n",
    )  # fmt: skip


def test_with_rates_at_hand_no_other_large_package_is_imported(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    arguments = ["estimate", str(tmp_path / "small.yaml"), "--rates", str(write_rates(tmp_path / "rates.csv"))]
    script = (
        f"import sys; from lplgrad.cli import main; status = main({arguments!r});"
        "sys.exit(status or ' '.join({'pandas', 'sklearn', 'snakemake'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "image-epochs    6,800" in done.stdout


def test_measured_rates_serve_every_task_of_the_study(layout: Layout) -> None:
    rates = measure_rates(layout, repeats=1)
    assert rates.keys() == RATES.keys()
    assert all(value > 0 for value in rates.values())


def test_tf32_is_for_convolutions_in_training_alone(
    data: DatasetArrays, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    seen: dict[str, set[tuple[bool, ...]]] = {"train": set(), "predict": set(), "norms": set()}

    def note(where: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **named: Any) -> Any:
            seen[where].add(tuple(flag.allow_tf32 for flag in flags))
            return call(*arguments, **named)

        return noting

    monkeypatch.setattr(optimizers.SGD, "step", note("train", optimizers.SGD.step))
    for module in (evaluation, needs):
        monkeypatch.setattr(module, "predict", note("predict", evaluation.predict))
    monkeypatch.setattr(needs, "gradient_norms", note("norms", needs.gradient_norms))
    common = ["--data", data.folder, "--labeled", tmp_path / "l.csv", "--round", 1, "--seed", 1, "--output", tmp_path]
    lplgrad("start", "--data", data.folder, "--query-size", 8, "--seed", 1, "--output", tmp_path / "l.csv")
    compute = "compute: {device: cpu, precision: tf32}"
    assert lplgrad("train", *common, "--settings", f"{TRAIN[:-1]}, {compute}}}")[0] == 0
    for function in ("entropy", "gradient_norm"):
        settings = f"{{acquisition: {function}, query_size: 4, candidates: 10, {compute}}}"
        asked = ["--checkpoint", tmp_path / "checkpoint.safetensors", "--settings", settings]
        assert lplgrad("query", *common, *asked)[0] == 0
    assert seen == {"train": {(False, True)}, "predict": {(False, False)}, "norms": {(False, False)}}
    assert not any(flag.allow_tf32 for flag in flags)
