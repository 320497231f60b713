"""Whether the precision of training changes what a model learns: test accuracies, paired by seed.

On scikit-learn's digits with the demo's settings and the strategy ``random``, so that in every precision a seed trains
on the same images from the same weights in the same order. It answers for this small task alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Figure, quartiles
from lplgrad import datasets
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine import devices
from lplgrad.machine.devices import to_tensor
from lplgrad.machine.randomness import stream
from lplgrad.modalities import image
from lplgrad.rounds.checkpoints import build, first_weights, to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.evaluation import accuracy, predict
from lplgrad.rounds.loop import train
from lplgrad.rounds.oracle import pool_labels
from lplgrad.study.settings import BackboneRow, RecipeRow, Training

NAME = "accuracy"
ROUNDS, QUERY_SIZE = 3, 25
TRAINING = Training(epochs=40, batch_size=25, learning_rate=0.05, milestones=[32])


def run(quick: bool) -> Iterator[Figure]:
    """Mean test accuracy in each precision, and its difference to float32, after every round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precisions = ["bfloat16", *(["tf32"] if device.type == "cuda" else [])]
    seeds = range(1, 3 if quick else 6)
    with tempfile.TemporaryDirectory() as folder:
        source = datasets.registry.load("digits")
        write_dataset(Path(folder), source.prepare(source.options(), Path(folder)))
        data = open_dataset(Path(folder))
        found = {
            precision: np.array([trial(data, seed, precision, device) for seed in seeds])
            for precision in ["float32", *precisions]
        }
    for number in range(ROUNDS):
        setting = f"digits, small_resnet, {(number + 1) * QUERY_SIZE} labels, {device.type}"
        for precision, accuracies in found.items():
            low, median, high = quartiles(accuracies[:, number].tolist())
            yield Figure(NAME, setting, precision, "accuracy", len(seeds), median, low, high)
        for precision in precisions:
            differences = found[precision][:, number] - found["float32"][:, number]
            case = f"{precision} minus float32, paired by seed"
            for seed, value in zip(seeds, differences.tolist(), strict=True):
                yield Figure(NAME, setting, f"{case}: seed {seed}", "accuracy", 1, value)
            error = float(differences.std(ddof=1) / len(differences) ** 0.5)
            mean = float(differences.mean())
            yield Figure(
                NAME,
                setting,
                f"{case}: mean ± standard error",
                "accuracy",
                len(seeds),
                mean,
                mean - error,
                mean + error,
            )


def trial(data: DatasetArrays, seed: int, precision: str, device: torch.device) -> list[float]:
    """Test accuracy after each round of a warm trial of the strategy ``random``."""
    inputs = {name: split.inputs for name, split in data.splits.items()}
    view = image.view(image.Augmentation(crop_padding=1), data.mean, data.std, inputs["train"].shape[1:], device)
    order = np.random.default_rng(seed).permutation(len(inputs["train"]))
    backbone, shape = BackboneRow(name="small_resnet"), image.input_shape(inputs["train"].shape[1:])
    learner = build(backbone, RecipeRow(trains="plain"), shape, len(data.classes))
    streams = partial(stream, seed, round_number=1)
    learner = to_device(first_weights(learner, backbone, streams), device)
    accuracies = []
    for number in range(1, ROUNDS + 1):
        labeled = np.sort(order[: number * QUERY_SIZE])
        draws = Draws(
            to_tensor(inputs["train"][labeled], device),
            to_tensor(pool_labels(data)[labeled], device),
            TRAINING.batch_size,
            view,
            partial(stream, seed, round_number=number),
        )
        with devices.tf32(precision == "tf32"):
            list(train(learner, draws, TRAINING, precision))
        logits = predict(learner, [view.plain(to_tensor(np.asarray(inputs["test"]), device))])["logits"]
        accuracies.append(accuracy(logits.cpu().numpy(), data.splits["test"].labels))
    return accuracies
