"""What a study will cost: the arithmetic by hand, the sizes against the files that jobs write."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from lplgrad import acquisition, datasets, recipes
from lplgrad.acquisition import fisher_mask, unmet
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine import fork_server
from lplgrad.rounds import evaluation, needs, optimizers
from lplgrad.rounds.checkpoints import build
from lplgrad.study.budgets import Start
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import BackboneRow, RecipeRow
from lplgrad.tools import rates as measuring
from lplgrad.tools.estimate import checkpoint_bytes, estimate, peak_bytes
from lplgrad.tools.rates import Measuring, measure_rates, read_rates
from lplgrad.tools.starting import jobs_at_a_time, start_seconds
from lplgrad.tools.work import size_of, sizes_of, works
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
    (MODEL, "step of plain (60 examples, sgd)"): 0.5,
    (MODEL, "step of joint (60 examples, sgd)"): 1.0,
    (MODEL, "predict with plain"): 0.125,
    (MODEL, "predict with joint"): 0.375,
    (MODEL, "measure candidates for gradient_norm with joint"): 0.25,
    (MODEL, "measure candidates for coreset with plain"): 0.125,
    (MODEL, "measure labeled for coreset with plain"): 0.5,
    (MODEL, "choose by coreset with plain"): 0.0625,
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
    assert cost.steps == 2 * 10 * (2 + 3 * 2)  # no round has more labels than a mini-batch
    joint, plain = 10 * 3 * 1.0 + 3 * 597 * 0.375, 10 * 5 * 0.5 + 5 * 597 * 0.125
    assert cost.training_seconds == 2 * (joint + plain)
    lplgrad = 2 * (100 + 597) * 0.25  # with the test images that are scored after the candidates
    coreset = 2 * 100 * 0.125 + (20 + 40) * 0.5 + 100 * (20 + 20 + 40 + 20) * 0.0625
    assert cost.query_seconds == 2 * (lplgrad + coreset)
    assert cost.start_seconds == 2.0 * (16 + 12)
    # The longest trial: lplgrad or coreset, its three trainings and two queries.
    assert cost.longest_seconds == max(joint + lplgrad, 10 * 3 * 0.5 + 3 * 597 * 0.125 + coreset) + 5 * 2
    plain_model, joint_model = (
        checkpoint_bytes(BackboneRow(name="small_resnet"), recipe, (1, 8, 8), 10) for recipe in (PLAIN, JOINT)
    )
    tables = 2 * 3 * (2 * 36 * 100 + 11 * (40 + 60)) + 2 * 2 * 25 * 597
    # Kept a seed: the starts of two recipes, the last rounds of three strategies.
    assert cost.final_bytes == 2 * (2 * joint_model + 3 * plain_model) + 16 * 597 * 10 * 4 + tables
    networks = build(BackboneRow(name="small_resnet"), JOINT, (1, 8, 8), 10).networks.values()
    momentum = sum(4 * one.numel() for network in networks for one in network.parameters())
    # A job has the checkpoint that it reads and, while it replaces it, two progress files.
    assert peak_bytes([cost], jobs=2) == cost.final_bytes + 2 * (3 * joint_model + 2 * momentum)


def test_a_start_of_its_own_is_counted(layout: Layout) -> None:
    """5 labels in round 1, then 25, 45 and 65."""
    low = layout.study.datasets["digits"].budgets["low"]
    budget = low.model_copy(update={"start": Start(size=5), "labels": 65})
    digits = layout.study.datasets["digits"].model_copy(update={"budgets": {"low": budget}})
    study = layout.study.model_copy(update={"datasets": {**layout.study.datasets, "digits": digits}})
    rates = {(of, task.replace("(60", "(65")): seconds for (of, task), seconds in RATES.items()}
    (cost,) = estimate(Layout(study), rates)
    assert cost.steps == 2 * 10 * (2 + 3 * 3)
    lplgrad = 3 * (100 + 597) * 0.25
    coreset = 3 * 100 * 0.125 + (5 + 25 + 45) * 0.5 + 100 * (25 + 45 + 65) * 0.0625
    assert cost.query_seconds == 2 * (lplgrad + coreset)


class AnyRate(dict[tuple[str, str], float]):
    """A machine that takes a second for everything."""

    def __missing__(self, key: tuple[str, str]) -> float:
        return 1.0


def test_the_whole_paper_is_estimated_without_its_data() -> None:
    study = read_study([HOME / "config.yaml"], {"data_dir": "nowhere"})
    total = 0
    for budget in study.run.budgets:
        for name in study.run.datasets:
            row, training = study.datasets[name].budgets[budget], study.datasets[name].training
            steps = [math.ceil(row.query_size * one / training.batch_size) for one in range(1, row.rounds + 1)]
            # Of six strategies two train jointly and four plainly; they share round 1.
            total += 5 * training.epochs * (2 * steps[0] + 6 * sum(steps[1:]))
    assert sum(cost.steps for cost in estimate(Layout(study), AnyRate())) == total


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


def test_with_rates_at_hand_no_other_large_package_is_imported(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    arguments = ["estimate", str(tmp_path / "small.yaml"), "--rates", str(write_rates(tmp_path / "rates.csv"))]
    script = (
        f"import sys; from lplgrad.cli import main; status = main({arguments!r});"
        "sys.exit(status or ' '.join({'pandas', 'sklearn', 'snakemake'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "steps           160 " in done.stdout


def test_measured_rates_serve_every_task_of_the_study(layout: Layout) -> None:
    rates = measure_rates(layout, repeats=1)
    assert rates.keys() == RATES.keys()
    assert all(value > 0 for value in rates.values())


def study_of(tmp_path: Path, recipes: dict[str, Any], strategies: dict[str, Any], **dataset: Any) -> Layout:
    """A study of one budget: 20 of digits' 1,200 labels in round 1, and 60 at the end."""
    row = yaml.safe_load(STUDY)
    row["run"] |= {"strategies": list(strategies)}
    row |= {"recipes": recipes, "strategies": strategies}
    row["datasets"]["digits"] |= dataset
    (tmp_path / "study.yaml").write_text(json.dumps(row))
    return Layout(read_study([tmp_path / "study.yaml"]))


def convolutions(case: Callable[[], object]) -> int:
    """How often a convolution is computed."""
    calls = [0]

    def count(module: nn.Module, inputs: object, output: object) -> None:
        calls[0] += isinstance(module, nn.Conv2d)

    hook = nn.modules.module.register_module_forward_hook(count)
    try:
        case()
    finally:
        hook.remove()
    return calls[0]


def test_an_ensemble_of_three_takes_as_many_steps_of_three_times_the_passes(tmp_path: Path) -> None:
    rows = {"one": {"trains": "plain"}, "three": {"trains": "ensemble", "members": 3}}
    asked = {name: {"recipe": name, "acquisition": "entropy", "title": name} for name in rows}
    layout = study_of(tmp_path, rows, asked)
    found = {}
    for name, work in zip(rows, works(layout, sizes_of(layout)), strict=True):
        cases = Measuring(work, torch.device("cpu")).cases()
        tasks = work.train, work.predict, work.measuring("candidates")
        found[name] = [(convolutions(cases[task][0]()), cases[task][1]) for task in tasks]
    assert found["three"] == [(3 * passes, count) for passes, count in found["one"]]
    assert all(passes > 0 for passes, _ in found["one"])
    (cost,) = estimate(layout, AnyRate())
    assert cost.steps == 2 * 10 * 2 * 3


def test_a_learner_of_its_own_and_a_clock_of_its_own_are_counted(tmp_path: Path) -> None:
    """Waal's epoch passes the pool's unlabelled examples; VAAL's all of the pool, within the query."""
    asked = {
        "vaal": {"recipe": "plain", "acquisition": "vaal", "epochs": 5},
        "waal": {"recipe": "waal", "acquisition": "waal"},
    }
    layout = study_of(tmp_path, {"plain": {"trains": "plain"}, "waal": {"trains": "waal"}}, asked)
    (cost,) = estimate(layout, AnyRate())
    pool = 1200
    plain, vaal = 10 * 3, 2 * 5 * math.ceil(pool / 128)
    waal = 10 * sum(math.ceil((pool - labels) / 128) for labels in (20, 40, 60))
    assert cost.steps == 2 * (plain + vaal + waal)
    # 100 candidates and 597 test examples a query; of VAAL the training too.
    assert cost.query_seconds == 2 * (2 * 2 * (100 + 597) + vaal)
    both = list(works(layout, sizes_of(layout)))
    assert both[0].side in Measuring(both[0], torch.device("cpu")).cases()
    # AdamW has two tensors as large as a parameter, and VAAL's networks are larger than small_resnet.
    assert cost.temporary_bytes > 6 * checkpoint_bytes(BackboneRow(name="small_resnet"), PLAIN, (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("options", "most"), [({}, 1200), ({"most": 300}, 300), ({"clock": "labeled"}, 0), ({"verifier": False}, 1200)]
)
def test_a_training_on_pseudo_labels_is_counted_at_its_longest(
    tmp_path: Path, options: dict[str, Any], most: int
) -> None:
    """Both stages are: all unlabelled examples may get one, up to the most that there may be, but none in round 1."""
    layout = study_of(
        tmp_path,
        {"pseudo": {"trains": "verips", **options}},
        {"verips": {"recipe": "pseudo", "acquisition": "entropy"}},
    )
    (cost,) = estimate(layout, AnyRate())
    verifier = 10 * 3 if options.get("verifier", True) else 0
    model = 10 * (1 + sum(math.ceil((labels + min(most, 1200 - labels)) / 128) for labels in (40, 60)))
    assert cost.steps == 2 * (verifier + model)


@pytest.mark.parametrize("of", ["candidates", "labeled"])
def test_the_mask_of_a_query_is_found_once_and_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """A rate is multiplied by the number of examples, and a query finds the mask once however many they are."""
    found: list[str] = []
    find_mask = fisher_mask.find_mask

    def recorded(*arguments: Any) -> Any:
        found.append(of)
        return find_mask(*arguments)

    monkeypatch.setattr(fisher_mask, "find_mask", recorded)
    asked = {"masked": {"recipe": "plain", "acquisition": "fisher_mask", "parameters": 5, "mask_examples": 2}}
    layout = study_of(tmp_path, {"plain": {"trains": "plain"}}, asked)
    (work,) = works(layout, sizes_of(layout))
    case = Measuring(work, torch.device("cpu")).cases()[work.measuring(of)][0]()
    case()  # to warm up
    assert len(found) == 1
    case()
    assert len(found) == 1


@pytest.mark.slow
def test_every_recipe_and_acquisition_function_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "start_seconds", lambda repeats, device: 1.0)
    rows = {name: {"trains": name} for name in recipes.registry.names()}
    known = {name: recipes.registry.load(name) for name in rows}
    offered = {name: kind.offered(kind.options(), frozenset({"stages"})) for name, kind in known.items()}
    strategies = {}
    for name in acquisition.registry.names():
        function = acquisition.registry.load(name)
        able = [one for one in rows if not unmet(function.requires(function.options()), offered[one])]
        strategies[name] = {"recipe": able[-1] if name == "random" else able[0], "acquisition": name}
    strategies["variance"] = {"recipe": "plain", "acquisition": "last_layer", "proxy": "variance"}
    for name in rows.keys() - {one["recipe"] for one in strategies.values()}:
        strategies[f"random_{name}"] = {"recipe": name, "acquisition": "random", "title": name}
    layout = study_of(tmp_path, rows, strategies)
    rates = measure_rates(layout, repeats=1)
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if not line.startswith("measuring: ")] == [], "remarks on random candidates"
    (cost,) = estimate(layout, rates)
    assert cost.longest_seconds > 0
    assert {name for _, name in rates if name.startswith("step of ")} >= {
        f"step of {n} (60 examples, sgd)" for n in rows
    }


def write_arrays(path: Path, shape: tuple[int, ...]) -> str:
    draw = np.random.default_rng(1)
    np.savez(path, X=draw.standard_normal((50, *shape)), y=np.arange(50) % 3)
    return str(path)


@pytest.mark.parametrize("source", datasets.registry.names())
def test_every_source_has_a_size_before_it_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(measuring, "start_seconds", lambda repeats, device: 1.0)
    options: dict[str, Any] = {}
    backbone, expected = "small_resnet", {
        "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
        "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
        "svhn": ((32, 32, 3), 10, 73_257, 26_032),
        "caltech101": ((224, 224, 3), 101, 5_800, 2_877),
        "digits": ((8, 8, 1), 10, 1_200, 597),
        "vectors": ((5,), 3, 40, 10),
        "series": ((12, 2), 3, 40, 10),
        "image_folder": ((8, 8, 3), 2, 30, 10),
        "image_table": ((8, 8, 3), 2, 30, 10),
    }  # fmt: skip
    if source == "vectors":
        options, backbone = {"path": write_arrays(tmp_path / "v.npz", (5,))}, "mlp"
    elif source == "series":
        options, backbone = {"path": write_arrays(tmp_path / "s.npz", (12, 2))}, "resnet1d"
    elif source in ("image_folder", "image_table"):
        rows = []
        for number in range(40):
            place = tmp_path / "images" / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(place / f"{number}.png")
            rows.append(f"images/{place.name}/{number}.png,{place.name}\n")
        (tmp_path / "table.csv").write_text("".join(["file,label\n", *rows]))
        name = "images" if source == "image_folder" else "table.csv"
        options = {"path": str(tmp_path / name), "test_images": 10}
    budgets = {"low": {"query_size": 5, "labels": 15}}
    asked = {"entropy": {"recipe": "plain", "acquisition": "entropy"}}
    row = {"source": source, "backbone": {"name": backbone}, "budgets": budgets, **options}
    layout = study_of(tmp_path, {"plain": {"trains": "plain"}}, asked, **row)
    assert tuple(size_of(layout.study, "digits"))[:4] == expected[source]
    (cost,) = estimate(layout, AnyRate())
    assert cost.trainings == 2 * 3
    if source in ("vectors", "series", "image_folder", "image_table"):
        assert min(measure_rates(layout, repeats=1).values()) > 0


def test_a_size_that_nothing_tells_is_asked_for_in_one_line(
    tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]
) -> None:
    asked = {"random": {"recipe": "plain", "acquisition": "random"}}
    row = {"source": "image_folder", "path": str(tmp_path / "nowhere"), "image_size": 8}
    study_of(tmp_path, {"plain": {"trains": "plain"}}, asked, **row)
    status, told = lplgrad("estimate", tmp_path / "study.yaml")
    assert (status, told.count("\n")) == (1, 1)
    assert "datasets.digits: its size is not known yet" in told
    assert "nowhere is not there); set test_images, or place its files there" in told
    (tmp_path / "nowhere").write_bytes(b"an archive is not read")
    assert (
        "not known yet; set test_images, or prepare it (add --until prepare"
        in lplgrad("estimate", tmp_path / "study.yaml")[1]
    )
    layout = study_of(tmp_path, {"plain": {"trains": "plain"}}, asked, **row, test_images=30)
    assert tuple(size_of(layout.study, "digits")) == ((8, 8, 3), 10, 140, 30, False)  # 40 labels before 100 candidates


def test_jobs_at_a_time_follow_from_the_machine(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def jobs(**compute: object) -> int:
        row = layout.study.compute.model_copy(update=compute)
        return jobs_at_a_time(layout.study.model_copy(update={"compute": row}))[0]

    assert [jobs(threads=2), jobs(threads=20)] == [4, 1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [jobs(jobs_per_gpu=2), jobs(device="cpu")] == [8, 9]


@pytest.mark.slow
def test_a_new_process_is_measured_in_the_open_where_no_fork_server_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fork_server, "start", lambda path, warn: None)  # nothing listens at the path
    assert start_seconds(1, torch.device("cpu")) > 0
    assert "warning: the fork server does not start here" in capsys.readouterr().err


def test_the_fork_server_ends_with_a_failed_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError("no process")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(OSError, match="no process"):
        start_seconds(1, torch.device("cpu"))
    assert not fork_server._started


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
