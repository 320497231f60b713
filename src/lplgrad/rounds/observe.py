"""Look into a round's model: features, losses and scores of test images, confidence in labelled and unlabelled ones."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from lplgrad.rounds.evaluation import Predictions
    from lplgrad.rounds.networks import Checkpoint
    from lplgrad.rounds.pool import Indices


def run(arguments: argparse.Namespace) -> None:
    """Draw images, ask the model and write."""
    import numpy as np

    from lplgrad.datasets.prepared.arrays import open_dataset
    from lplgrad.machine import devices
    from lplgrad.machine.files import replacing, write_text
    from lplgrad.machine.leases import lease_gpu
    from lplgrad.machine.randomness import Purpose, stream
    from lplgrad.rounds.files import read_labeled
    from lplgrad.rounds.round import check_positive, check_seed
    from lplgrad.study.settings import ObservationJob
    from lplgrad.study.validation import parse_settings

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

    from lplgrad.rounds import networks

    device = devices.set_up(settings.compute)
    checkpoint = networks.load(arguments.checkpoint)
    checkpoint.networks.to(device)
    asked = _ask(checkpoint, data.test.images, embedded, device, "test images")
    assert asked.features is not None
    with replacing(arguments.output / "features.npy") as file:
        np.save(file, asked.features.cpu().numpy(), allow_pickle=False)
    told = _told(checkpoint, asked, data.test.images[embedded], data.test.labels[embedded], device)
    rows = zip(embedded.tolist(), *told.values(), strict=True)
    lines = [",".join(["index", *told]) + "\n", *(",".join(map(str, row)) + "\n" for row in rows)]
    write_text(arguments.output / "observed.csv", "".join(lines))
    lines = ["index,labeled,confidence\n"]
    for is_labeled, indices in ((1, labeled.indices), (0, unlabeled)):
        logits = _ask(checkpoint, data.train.images, indices, device, "training images").logits
        confidence = logits.double().softmax(dim=1).amax(dim=1).tolist()
        lines += [f"{index},{is_labeled},{value:.6g}\n" for index, value in zip(indices, confidence, strict=True)]
    write_text(arguments.output / "confidence.csv", "".join(lines))


def _ask(
    checkpoint: Checkpoint, images: npt.NDArray[np.uint8], positions: Indices, device: torch.device, what: str
) -> Predictions:
    from lplgrad.machine.log import track
    from lplgrad.rounds.evaluation import batch_size, batches_of, predict
    from lplgrad.rounds.transforms import Normalize, to_tensor

    normalize = Normalize(checkpoint.normalization, device)
    size = batch_size(*images.shape[1:3])
    read = track(batches_of(images, positions, size), -(-len(positions) // size), what)
    return predict(
        checkpoint.networks,
        (normalize(to_tensor(batch, device)) for batch in read),
        features=True,
        predicted_loss=checkpoint.networks.auxiliary is not None,
    )


def _told(
    checkpoint: Checkpoint,
    asked: Predictions,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    device: torch.device,
) -> dict[str, list[Any]]:
    """Of test images the class, the loss, and what acquisition functions would score: columns by name."""
    import torch
    from torch.nn import functional as F

    from lplgrad.acquisition.entropy import entropy
    from lplgrad.rounds.evaluation import batch_size, batches_of
    from lplgrad.rounds.needs import gradient_norms
    from lplgrad.rounds.transforms import Normalize, to_tensor

    normalize = Normalize(checkpoint.normalization, device)
    batches = batches_of(images, None, batch_size(*images.shape[1:3]))
    norms = gradient_norms(checkpoint.networks, entropy, (normalize(to_tensor(batch, device)) for batch in batches))
    losses = F.cross_entropy(asked.logits.double(), torch.from_numpy(labels).to(device), reduction="none")
    measured = {"loss": losses, "entropy": entropy(asked.logits), "gradient_norm": norms.total}
    columns: dict[str, list[Any]] = {"class": labels.tolist()}
    columns |= {name: [f"{value:.6g}" for value in values.tolist()] for name, values in measured.items()}
    predicted = asked.predicted_loss
    columns["predicted_loss"] = [""] * len(labels) if predicted is None else [f"{p:.6g}" for p in predicted.tolist()]
    return columns
