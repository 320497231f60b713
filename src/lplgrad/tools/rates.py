"""How fast a machine is at a study's own models: rates that are measured here, or that a file holds."""

from __future__ import annotations

import csv
import io
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from lplgrad import datasets, modalities
from lplgrad.acquisition.coreset import k_center_greedy
from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.machine import devices, fork_server
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.machine.log import say
from lplgrad.machine.randomness import stream
from lplgrad.machine.timing import Stopwatch
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import build, first_weights, to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.study.layout import Layout
from lplgrad.study.settings import BackboneRow, Compute, Dataset, RecipeRow, Study

# Seconds by (key, task): of an image (``train``: forward, backward and update; ``predict``: forward; ``gradient
# norms``), of a pair of points (``k-center``), of a job (``start a job``).
Rates = Mapping[tuple[str, str], float]
ANY = "any model"
# Sources whose size is known before they are prepared: side, channels, classes, test images.
KNOWN = {
    "cifar10": (32, 3, 10, 10_000), "cifar100": (32, 3, 100, 10_000), "svhn": (32, 3, 10, 26_032),
    "caltech101": (224, 3, 101, 2_877), "digits": (8, 1, 10, 597),
}  # fmt: skip


class Size(NamedTuple):
    """The size of a data set: side of an image in pixels, channels, classes, and images of either split."""

    side: int
    channels: int
    classes: int
    pool: int
    test: int


def size_of(study: Study, dataset: str) -> Size:
    """Read the size of a prepared data set; of another one take it from its source and options, or raise UserError."""
    row = study.datasets[dataset]
    manifest = Path(study.data_dir) / dataset / "dataset.json"
    if manifest.exists():
        described = read_json(manifest)
        try:
            train, test = (described["splits"][split]["inputs"] for split in ("train", "test"))
            return Size(min(train[1:3]), train[3], len(described["classes"]), train[0], test[0])
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{manifest}: not the description of a data set; prepare it anew") from None
    options = row.checked_options
    # Of a folder of images the number of classes is a guess; it changes the disk space by some kB.
    side, channels, classes, test = KNOWN.get(row.source, (None, 3, 6, None))
    side = getattr(options, "image_size", None) or side
    test = getattr(options, "test_images", None) or test
    pool = datasets.registry.load(row.source).pool_size(options) or max(
        budget.labels for budget in row.budgets.values()
    )
    if side is None or test is None:
        raise UserError(
            f"datasets.{dataset}: its size is known once it is prepared (add --until prepare to your snakemake command)"
        )
    return Size(side, channels, classes, pool, test)


def key(backbone: BackboneRow, size: Size, compute: Compute) -> str:
    """The name of a network in a file of rates."""
    return f"{backbone.label}, {size.side}x{size.side}x{size.channels}, {compute.precision}"


def rate(rates: Rates, of: str, task: str) -> float:
    """Look up seconds; raise UserError if the rate is missing."""
    try:
        return rates[of, task]
    except KeyError:
        known = "; ".join(sorted({name for name, _ in rates})) or "none"
        raise UserError(f"no rate for {task!r} of {of} (there are: {known}); --measure takes it here") from None


def read_rates(path: Path) -> Rates:
    """Read the rows of the benchmark ``rates`` from a file that ``python -m benchmarks`` wrote."""
    try:
        text = path.read_bytes().decode()
        rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("benchmark") == "rates"]
        rates = {(row["setting"], row["case"]): float(row["median"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{path}: not a table of measured rates") from None
    if rates and not text.endswith("\n"):
        raise UserError(f"{path}: cut off within its last line; measure the rates again")
    for (of, task), seconds in rates.items():
        if not 0 < seconds < math.inf:
            raise UserError(f"{path}: {task!r} of {of} takes {seconds} seconds; measure the rates again")
    if not rates:
        raise UserError(f"{path}: no rates in it; python -m benchmarks --only rates measures them")
    return rates


def measure_rates(layout: Layout, repeats: int = 3) -> dict[tuple[str, str], float]:
    """Measure the rates of a study here: medians over ``repeats`` batches of each task, after one to warm up."""
    study, rates = layout.study, dict[tuple[str, str], float]()
    device = devices.set_up(study.compute)
    for name in layout.datasets:
        row, size = study.datasets[name], size_of(study, name)
        model = key(row.backbone, size, study.compute)
        trained = [study.recipes[recipe] for recipe in layout.recipes()]
        if (model, "predict") not in rates:
            for task, (case, count) in cases(row, trained, size.side, size.channels, study.compute, device).items():
                rates[model, task] = median_seconds(case, device, repeats) / count
    points = torch.randn(2_000, 512, generator=torch.Generator().manual_seed(1))
    found = median_seconds(lambda: k_center_greedy(points[:1_500], points[1_500:], 100), device, repeats)
    rates[ANY, "k-center"] = found / (1_500 * 600)
    rates[ANY, "start a job"] = start_seconds(repeats)
    return rates


def start_seconds(repeats: int) -> float:
    """Measure the median seconds to start a training and end it at once: as a fork where Snakemake would fork."""
    command = [sys.executable, "-c", "import lplgrad.rounds.training"]
    if sys.platform == "linux":
        fork_server.start(path := fork_server.socket_path(), say)
        command = [sys.executable, "-I", "-S", str(fork_server.CLIENT), str(path), "train", "--help"]
    seconds = []
    for _ in range(repeats + 1):
        before = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - before)
    fork_server.stop()
    return statistics.median(seconds[1:])


def cases(
    row: Dataset, trained: Iterable[RecipeRow], side: int, channels: int, compute: Compute, device: torch.device
) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed for a model, and the number of images. ``joint`` is timed with its gradients attached."""
    modality = modalities.registry.load(row.modality)
    augmentation = modality.augmentation.model_validate(row.augmentation)
    view = modality.view(augmentation, [0.5] * channels, [0.25] * channels, (side, side, channels), device)
    batch = row.training.batch_size if device.type == "cuda" else min(row.training.batch_size, view.batch_size())
    count = batch * (20 if device.type == "cuda" else 1)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8, generator=draw).to(device)
    labels = torch.randint(0, 10, (count,), generator=draw).to(device)
    normalized = torch.randn(batch, channels, side, side, generator=draw).to(device)
    normalized = normalized.contiguous(memory_format=torch.channels_last)
    once: dict[str, object] = {"epochs": 1, "milestones": [], "learning_rate": 1e-4, "batch_size": batch}
    training = row.training.model_copy(update=once)

    def learner_of(recipe: RecipeRow) -> Learner:
        learner = build(row.backbone, recipe, (channels, side, side), 10)
        return to_device(first_weights(learner, row.backbone, partial(stream, 1)), device)

    def epoch(recipe: RecipeRow) -> Callable[[], object]:
        learner = learner_of(recipe)

        def run() -> None:
            draws = Draws(images, labels, batch, view, partial(stream, 1))
            with devices.tf32(compute.precision == "tf32"):
                list(train(learner, draws, training, compute.precision))

        return run

    plain = learner_of(RecipeRow(trains="plain"))
    asked = normalized[: view.batch_size(norms=True)]

    def norms() -> None:
        plain.reported.eval()
        with PerSampleGradientNorms(plain.reported) as norms_of:
            norms_of(asked, entropy)

    return {
        **{f"train {recipe.label}": (epoch(recipe), count) for recipe in trained},
        "predict": (lambda: predict(plain, [normalized]), batch),
        "gradient norms": (norms, len(asked)),
    }


def median_seconds(case: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Measure the median seconds of a call; with one thread on a processor, without waiting for other programs."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        Stopwatch(device).synchronize()
        start = clock()
        case()
        Stopwatch(device).synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])
