"""Look into a round's model: features of test images, and its confidence in labelled and unlabelled images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from lplgrad.evaluation import Predictions
    from lplgrad.networks import Checkpoint
    from lplgrad.pool import Indices

EXAMPLE = """lplgrad observe --data data/digits --labeled labeled.csv --checkpoint round1/checkpoint.safetensors \\
      --seed 1 --output round1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of a prepared data set")
    parser.add_argument("--labeled", type=Path, required=True, metavar="CSV", help="the labelled set of the round")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="of the round")
    parser.add_argument("--seed", type=int, required=True, help="seed of the trial; the images are drawn by it")
    parser.add_argument(
        "--settings", default="{}", metavar="YAML", help="unlabeled_images, embedded_images and compute"
    )
    parser.add_argument(
        "--jobs-per-gpu", type=int, default=1, metavar="N", help="how many jobs may share a GPU (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for features.npy and confidence.csv"
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw images, ask the model and write."""
    import numpy as np

    from lplgrad import devices
    from lplgrad.arrays import open_dataset
    from lplgrad.artifacts import read_labeled
    from lplgrad.commands.common import check_positive, check_seed, parse_settings
    from lplgrad.files import replacing, write_text
    from lplgrad.leases import lease_gpu
    from lplgrad.randomness import Purpose, stream
    from lplgrad.settings import ObservationJob

    settings = parse_settings(ObservationJob, arguments.settings)
    check_positive("--jobs-per-gpu", arguments.jobs_per_gpu)
    check_seed(arguments.seed)
    data = open_dataset(arguments.data)
    pool = len(data.train.images)
    labeled = read_labeled(arguments.labeled, pool)
    # Drawn by the trial's seed alone: every round shows the same test images, and of the pool those still unlabelled.
    draw = stream(arguments.seed, Purpose.OBSERVED_IMAGES)
    embedded = np.sort(draw.permutation(len(data.test.images))[: settings.embedded_images])
    order = draw.permutation(pool)
    unlabeled = np.sort(order[~np.isin(order, labeled.indices)][: settings.unlabeled_images])

    if settings.compute.device != "cpu":
        lease_gpu(arguments.jobs_per_gpu)  # before torch is imported

    from lplgrad import networks

    device = devices.set_up(settings.compute)
    checkpoint = networks.load(arguments.checkpoint)
    checkpoint.networks.to(device)
    features = _ask(checkpoint, data.test.images, embedded, device, "test images").features
    assert features is not None
    with replacing(arguments.output / "features.npy") as file:
        np.save(file, features.cpu().numpy(), allow_pickle=False)
    lines = ["index,labeled,confidence\n"]
    for is_labeled, indices in ((1, labeled.indices), (0, unlabeled)):
        logits = _ask(checkpoint, data.train.images, indices, device, "training images").logits
        confidence = logits.double().softmax(dim=1).amax(dim=1).tolist()
        lines += [f"{index},{is_labeled},{value:.6g}\n" for index, value in zip(indices, confidence, strict=True)]
    write_text(arguments.output / "confidence.csv", "".join(lines))
    write_text(
        arguments.output / "embedded.csv",
        "index,class\n" + "".join(f"{index},{data.test.labels[index]}\n" for index in embedded),
    )


def _ask(
    checkpoint: Checkpoint, images: npt.NDArray[np.uint8], positions: Indices, device: torch.device, what: str
) -> Predictions:
    from lplgrad.evaluation import batch_size, batches_of, predict
    from lplgrad.progress import track
    from lplgrad.transforms import Normalize, to_tensor

    normalize = Normalize(checkpoint.normalization, device)
    size = batch_size(*images.shape[1:3])
    read = track(batches_of(images, positions, size), -(-len(positions) // size), what)
    return predict(checkpoint.networks, (normalize(to_tensor(batch, device)) for batch in read), features=True)
