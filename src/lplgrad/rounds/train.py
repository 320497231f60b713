"""Train for one round and test: write the checkpoint, the test logits, the metrics and the time it took."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lplgrad.datasets.prepared.arrays import DatasetArrays
    from lplgrad.rounds.loop import Epoch
    from lplgrad.rounds.networks import Networks
    from lplgrad.rounds.pool import LabeledSet
    from lplgrad.rounds.resume import Progress
    from lplgrad.study.settings import Normalization, TrainingJob


def run(arguments: argparse.Namespace) -> None:
    """Train, test and write; in a round's folder one process at a time."""
    from lplgrad.machine.locks import alone

    with alone(arguments.output, "train") as wanted:
        _train(arguments, wanted)


def _train(arguments: argparse.Namespace, wanted: Callable[[], bool]) -> None:
    from lplgrad.datasets.prepared.arrays import open_dataset
    from lplgrad.machine.errors import UserError
    from lplgrad.machine.files import write_json
    from lplgrad.machine.log import say
    from lplgrad.rounds.files import read_labeled
    from lplgrad.rounds.round import check_clock, check_positive, check_round, check_seed, say_settings
    from lplgrad.rounds.settings import TRAINING, digests, torch_version, write_settings
    from lplgrad.rounds.stopping import has_stopped, repeat_round
    from lplgrad.study.settings import Normalization, TrainingJob
    from lplgrad.study.validation import parse_settings

    settings = parse_settings(TrainingJob, arguments.settings)
    say_settings(settings)
    check_positive("--round", arguments.round)
    check_positive("--jobs-per-gpu", arguments.jobs_per_gpu)
    check_seed(arguments.seed)
    warm = settings.recipe.init == "warm" and arguments.round > 1
    if warm != (arguments.checkpoint is not None):
        reason = "a warm start trains on the round before" if warm else "this round starts with new weights"
        raise UserError(f"--checkpoint: {'missing' if warm else 'not wanted'}: {reason}")
    if arguments.target_accuracy is not None and arguments.round > 1:
        if arguments.previous is None:
            raise UserError("--previous: missing: whether the target accuracy was reached stands there")
        if has_stopped(arguments.previous / "metrics.json", arguments.target_accuracy):
            trained_with = torch_version(arguments.previous)
            metrics = repeat_round(arguments.previous, arguments.output, arguments.round)
            write_settings(arguments, TRAINING, settings, None, digests(arguments), trained_with)
            write_json(arguments.output / "metrics.json", metrics)
            say(f"round {arguments.round}, seed {arguments.seed}: the target accuracy was reached before; not trained")
            return
    data = open_dataset(arguments.data)
    labeled = read_labeled(arguments.labeled, len(data.train.images))
    check_round(arguments.labeled, labeled, arguments.round)
    check_clock([arguments.data / "dataset.json", arguments.labeled, *filter(None, [arguments.checkpoint])])
    normalization = settings.normalization or Normalization(mean=data.mean, std=data.std)
    if len(normalization.mean) != data.channels:
        raise UserError(
            f"normalization: has {len(normalization.mean)} channels, the images of {arguments.data} {data.channels}"
        )

    _train_and_test(arguments, settings, data, labeled, normalization, wanted, digests(arguments))


def _train_and_test(
    arguments: argparse.Namespace,
    settings: TrainingJob,
    data: DatasetArrays,
    labeled: LabeledSet,
    normalization: Normalization,
    wanted: Callable[[], bool],
    given: dict[str, Any],
) -> None:
    """All is found to be in order: from here on torch is there."""
    from lplgrad.machine.leases import lease_gpu

    if settings.compute.device != "cpu":
        lease_gpu(arguments.jobs_per_gpu)  # before torch is imported

    import numpy as np

    from lplgrad.machine import devices
    from lplgrad.machine.errors import UserError
    from lplgrad.machine.files import write_json
    from lplgrad.machine.log import say
    from lplgrad.rounds import networks
    from lplgrad.rounds.evaluation import accuracy, accuracy_per_class, batch_size, batches_of, predict
    from lplgrad.rounds.files import forget_progress, write_logits
    from lplgrad.rounds.resume import Progress, digest_of
    from lplgrad.rounds.settings import TRAINING, write_settings
    from lplgrad.rounds.transforms import Normalize, to_tensor

    device = devices.set_up(settings.compute)
    trained = _networks(arguments, settings, data, normalization)
    trained.to(device)
    inputs = [arguments.data / "dataset.json", arguments.labeled, *filter(None, [arguments.checkpoint])]
    digest = digest_of([settings.model_dump(), arguments.round, arguments.seed, device.type], inputs)
    progress = Progress(arguments.output, digest, arguments.progress_seconds, wanted)
    epochs = settings.training.epochs
    say(f"round {arguments.round}, seed {arguments.seed}: {len(labeled)} labels, {epochs} epochs on {device}")
    watch = devices.Stopwatch(device)
    last = _epochs(arguments, settings, data, labeled, normalization, trained, progress, device)
    seconds = watch.seconds()

    normalize = Normalize(normalization, device)
    test_batches = batches_of(data.test.images, None, batch_size(*data.test.images.shape[1:3]))
    logits = predict(trained, (normalize(to_tensor(batch, device)) for batch in test_batches)).logits.cpu().numpy()
    if not np.isfinite(logits).all():  # the loss was finite before the last step
        raise UserError(f"the weights are not finite after epoch {epochs} of {epochs}; lower training.learning_rate")
    metrics = {
        "round": arguments.round,
        "labels": len(labeled),
        "accuracy": accuracy(logits, data.test.labels),
        "accuracy_per_class": dict(zip(data.classes, accuracy_per_class(logits, data.test.labels), strict=True)),
        "train_loss": last.loss,
        "stopped": False,
    }
    timing = {
        "train_seconds": round(progress.earlier_seconds + seconds, 4),
        "test_seconds": round(watch.seconds() - seconds, 4),
        "peak_memory_mb": round(devices.peak_memory_mb(device), 1),
        **devices.describe(device),
    }
    networks.save(arguments.output / "checkpoint.safetensors", trained, settings.model, normalization, data.classes)
    write_logits(arguments.output / "test_logits.npy", logits)
    write_json(arguments.output / "timing.json", timing)
    write_settings(arguments, TRAINING, settings, len(labeled), given)
    write_json(arguments.output / "metrics.json", metrics)
    if arguments.checkpoint is not None:
        forget_progress(arguments.checkpoint.parent)
    say(f"test accuracy {metrics['accuracy']:.4f}; trained in {seconds:.1f} s")


def _networks(
    arguments: argparse.Namespace, settings: TrainingJob, data: DatasetArrays, normalization: Normalization
) -> Networks:
    """New networks, or those of the round before where the recipe starts warm; on the CPU."""
    from lplgrad.machine.errors import UserError
    from lplgrad.rounds import networks

    auxiliary = settings.recipe.auxiliary
    if arguments.checkpoint is None:
        return networks.first_networks(
            settings.model, data.channels, len(data.classes), auxiliary, arguments.seed, arguments.round
        )
    checkpoint = networks.load(arguments.checkpoint)
    checkpoint.check_fits(data.channels, data.classes, settings.model, normalization)
    if (checkpoint.networks.auxiliary is not None) != auxiliary:
        raise UserError(f"{arguments.checkpoint}: was trained by another recipe (auxiliary module or not)")
    return checkpoint.networks


def _epochs(
    arguments: argparse.Namespace,
    settings: TrainingJob,
    data: DatasetArrays,
    labeled: LabeledSet,
    normalization: Normalization,
    trained: Networks,
    progress: Progress,
    device: torch.device,
) -> Epoch:
    """Train, and keep the progress; what is told of the last epoch."""
    from lplgrad.machine import devices
    from lplgrad.machine.errors import UserError
    from lplgrad.machine.log import track
    from lplgrad.machine.randomness import Purpose, stream
    from lplgrad.rounds.loop import train
    from lplgrad.rounds.transforms import to_tensor

    epochs = settings.training.epochs

    def line(epoch: Epoch) -> str:
        pairs = "" if epoch.pair_loss is None else f"  pair loss {epoch.pair_loss:.4f}"
        return f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}{pairs}  learning rate {epoch.learning_rate:g}"

    steps = train(
        trained,
        to_tensor(data.train.images[labeled.indices], device),
        to_tensor(data.train.labels[labeled.indices], device),
        settings.training,
        settings.recipe,
        settings.augmentation,
        normalization,
        stream(arguments.seed, Purpose.BATCHES, arguments.round),
        stream(arguments.seed, Purpose.AUGMENTATION, arguments.round),
        settings.compute.precision,
        progress.attach,
    )
    try:
        with devices.tf32(settings.compute.precision == "tf32"):
            for _ in track(progress.keep(steps), epochs, "epochs", line):
                pass
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"training.batch_size: {settings.training.batch_size} leaves one of {len(labeled)} images over, and batch "
            "norm has no variance over one image whose last feature map is one pixel; choose another size"
        ) from None
    except RuntimeError as error:
        if not devices.lacks_memory(error):
            raise
        raise UserError(
            f"out of memory in a step of training.batch_size: {settings.training.batch_size}; lower it, or "
            "compute.jobs_per_gpu if other jobs share the card"
        ) from None
    assert progress.state is not None
    assert progress.state.last is not None
    return progress.state.last
