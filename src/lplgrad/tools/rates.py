"""How fast this machine is at a study's own models: seconds an image, from some batches of random images."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from lplgrad.acquisition.coreset import k_center_greedy
from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.machine import devices
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.machine.timing import Stopwatch
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.rounds.needs import gradient_batch_size
from lplgrad.rounds.networks import first_networks
from lplgrad.rounds.transforms import batch_size
from lplgrad.study.layout import Layout
from lplgrad.study.settings import Compute, Dataset, Normalization, Recipe
from lplgrad.tools.costs import ANY, images_of, key


def measure_rates(layout: Layout, repeats: int = 3) -> dict[tuple[str, str], float]:
    """Medians over ``repeats`` batches of each task, after one that does not count; one job at a time.

    Returns:
        Seconds by (key of the model, task), as ``estimation.estimate`` takes them.
    """
    study, rates = layout.study, dict[tuple[str, str], float]()
    device = devices.set_up(study.compute)
    for name in layout.datasets:
        row, images = study.datasets[name], images_of(study, name)
        model_key = key(row.model, images.side, images.channels, study.compute)
        if (model_key, "train plain") not in rates:
            for task, (case, count) in cases(row, images.side, images.channels, study.compute, device).items():
                rates[model_key, task] = median_seconds(case, device, repeats) / count
    points = torch.randn(2_000, 512, generator=torch.Generator().manual_seed(1))
    found = median_seconds(lambda: k_center_greedy(points[:1_500], points[1_500:], 100), device, repeats)
    rates[ANY, "k-center"] = found / (1_500 * 600)
    script = [sys.executable, "-c", "import lplgrad.rounds.loop, lplgrad.rounds.evaluation, lplgrad.rounds.networks"]
    before = time.perf_counter()
    for _ in range(repeats):
        subprocess.run(script, check=True)
    rates[ANY, "start a job"] = (time.perf_counter() - before) / repeats
    return rates


def cases(
    row: Dataset, side: int, channels: int, compute: Compute, device: torch.device
) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed for a model, and how many images each takes. ``joint`` is timed with its gradients attached."""
    batch = row.training.batch_size if device.type == "cuda" else min(row.training.batch_size, batch_size(side, side))
    count = batch * (20 if device.type == "cuda" else 1)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8, generator=draw).to(device)
    labels = torch.randint(0, 10, (count,), generator=draw).to(device)
    normalized = torch.randn(batch, channels, side, side, generator=draw).to(device)
    normalized = normalized.contiguous(memory_format=torch.channels_last)
    training = row.training.model_copy(
        update={"epochs": 1, "milestones": [], "learning_rate": 1e-4, "batch_size": batch}
    )
    normalization = Normalization(mean=[0.5] * channels, std=[0.25] * channels)

    def epoch(auxiliary: bool) -> Callable[[], object]:
        networks = first_networks(row.model, channels, 10, auxiliary, 1, 1).to(device)
        recipe = Recipe(auxiliary=auxiliary)

        def run() -> None:
            streams = (stream(1, Purpose.BATCHES, 1), stream(1, Purpose.AUGMENTATION, 1))
            arguments = (training, recipe, row.augmentation, normalization, *streams, compute.precision)
            with devices.tf32(compute.precision == "tf32"):
                list(train(networks, images, labels, *arguments))

        return run

    networks = first_networks(row.model, channels, 10, False, 1, 1).to(device)
    asked = normalized[: gradient_batch_size(normalized)]

    def norms() -> None:
        networks.model.eval()
        with PerSampleGradientNorms(networks.model) as norms_of:
            norms_of(asked, entropy)

    return {
        "train plain": (epoch(False), count),
        "train joint": (epoch(True), count),
        "predict": (lambda: predict(networks, [normalized]), batch),
        "gradient norms": (norms, len(asked)),
    }


def median_seconds(case: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, the device's queue drained at both ends. Of one thread the processor's seconds, which
    leave out the waiting for other programs.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(repeats + 1):
        Stopwatch(device).synchronize()
        start = clock()
        case()
        Stopwatch(device).synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])
