"""``lplgrad observe``: what the model of a round predicts, for the figures of single models."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from lplgrad.acquisition import Slope
from lplgrad.acquisition.entropy import entropy
from lplgrad.machine.devices import to_tensor
from lplgrad.machine.files import replacing, write_text
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.rounds import checkpoints
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.needs import gradient_norms
from lplgrad.rounds.pool import Indices
from lplgrad.rounds.round import open_round
from lplgrad.study.jobs import ObservationJob


def run(arguments: argparse.Namespace) -> None:
    """Draw examples, let the model predict them, and write features, losses and scores, and confidence."""
    with open_round(arguments, ObservationJob, "observe") as here:
        data, settings = here.data, here.settings
        # Drawn by the trial's seed alone: every round shows the same test examples, and the same training examples as
        # long as they have no label.
        draw = stream(here.seed, Purpose.OBSERVED_EXAMPLES)
        embedded = np.sort(draw.permutation(len(data.splits["test"].inputs))[: settings.embedded_images])
        order = draw.permutation(len(data.splits["train"].inputs))
        unlabeled = np.sort(order[~np.isin(order, here.labeled.indices)][: settings.unlabeled_images])

        checkpoint = checkpoints.load(arguments.checkpoint)
        learner = checkpoints.to_device(checkpoint.learner, here.device)
        offered = checkpoint.offered

        def batches(split: str, positions: Indices, what: str = "") -> Iterable[Tensor]:
            return here.batches(split, positions, checkpoint.about.normalization, what)

        wanted = frozenset({"logits", "features", "predicted_loss"}) & offered
        found = predict(learner, batches("test", embedded, "test examples"), wanted)
        nothing = [""] * len(embedded)
        norms = nothing
        if "gradient_norms" in offered:
            at_once = here.view(checkpoint.about.normalization).batch_size(norms=True)
            slope = Slope(entropy, fallback=True)
            norms = _digits(gradient_norms(learner, slope, batches("test", embedded), at_once).total)
        labels = to_tensor(data.splits["test"].labels[embedded], here.device)
        with replacing(here.folder / "features.npy") as file:
            np.save(file, found["features"].cpu().numpy(), allow_pickle=False)
        columns: dict[str, list[Any]] = {
            "index": embedded.tolist(),
            "class": labels.tolist(),
            "loss": _digits(F.cross_entropy(found["logits"].double(), labels, reduction="none")),
            "entropy": _digits(entropy(found["logits"])),
            "gradient_norm": norms,
            "predicted_loss": _digits(found["predicted_loss"]) if "predicted_loss" in found else nothing,
        }
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        write_text(here.folder / "observed.csv", "".join(",".join(map(str, row)) + "\n" for row in rows))
        lines = ["index,labeled,confidence\n"]
        for is_labeled, indices in ((1, here.labeled.indices), (0, unlabeled)):
            logits = predict(learner, batches("train", indices, "training examples"))["logits"]
            confidence = _digits(logits.double().softmax(dim=1).amax(dim=1))
            lines += [f"{index},{is_labeled},{value}\n" for index, value in zip(indices, confidence, strict=True)]
        write_text(here.folder / "confidence.csv", "".join(lines))


def _digits(values: Tensor) -> list[str]:
    return [f"{value:.6g}" for value in values.tolist()]
