"""One round of training and its test, from the labelled set to the files of the round."""

from __future__ import annotations

import numpy as np

from lplgrad.machine import devices
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json
from lplgrad.machine.log import say, track
from lplgrad.machine.randomness import Purpose
from lplgrad.machine.timing import Stopwatch, describe, peak_memory_mb
from lplgrad.rounds import networks
from lplgrad.rounds.evaluation import accuracy, accuracy_per_class, predict
from lplgrad.rounds.files import forget_progress, write_logits
from lplgrad.rounds.loop import Epoch, train
from lplgrad.rounds.networks import Networks
from lplgrad.rounds.resume import Progress, digest_of
from lplgrad.rounds.round import Round
from lplgrad.rounds.settings import TRAINING, write_settings
from lplgrad.rounds.transforms import to_tensor
from lplgrad.study.settings import Normalization, TrainingJob


def train_and_test(here: Round[TrainingJob]) -> None:
    """Train on the labelled set of a round, test, and write the files of the round, ``metrics.json`` last.

    Raises:
        UserError: the checkpoint or the settings do not fit, numbers are not finite, or memory is short.
    """
    arguments, settings, data = here.arguments, here.settings, here.data
    normalization = settings.normalization or Normalization(mean=data.mean, std=data.std)
    if len(normalization.mean) != data.channels:
        raise UserError(
            f"normalization: has {len(normalization.mean)} channels, the images of {arguments.data} {data.channels}"
        )
    trained = _networks(here, normalization)
    device = here.device
    trained.to(device)
    inputs = [arguments.data / "dataset.json", arguments.labeled, *filter(None, [arguments.checkpoint])]
    digest = digest_of([settings.model_dump(), here.number, here.seed, device.type], inputs)
    machine = describe(device)
    progress = Progress(here.folder, digest, arguments.progress_seconds, here.wanted, machine["device"])
    epochs = settings.training.epochs
    known = len(here.labeled.known)
    unknown = f" ({len(here.labeled) - known} more are unknown)" if known < len(here.labeled) else ""
    say(f"round {here.number}, seed {here.seed}: {known} labels{unknown}, {epochs} epochs on {device}")
    watch = Stopwatch(device)
    last = _epochs(here, normalization, trained, progress)
    seconds = watch.seconds()

    logits = predict(trained, here.batches("test", None, normalization)).logits.cpu().numpy()
    if not np.isfinite(logits).all():  # the loss was finite before the last step
        raise UserError(f"the weights are not finite after epoch {epochs} of {epochs}; lower training.learning_rate")
    metrics = {
        "round": here.number,
        "labels": known,
        "accuracy": accuracy(logits, data.splits["test"].labels),
        "accuracy_per_class": dict(
            zip(data.classes, accuracy_per_class(logits, data.splits["test"].labels), strict=True)
        ),
        "train_loss": last.loss,
        "stopped": False,
    }
    timing = {
        "train_seconds": round(progress.earlier_seconds + seconds, 4),
        "test_seconds": round(watch.seconds() - seconds, 4),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        **machine,
        "device": "; ".join(progress.devices),
    }
    networks.save(here.folder / "checkpoint.safetensors", trained, settings.model, normalization, data.classes)
    write_logits(here.folder / "test_logits.npy", logits)
    write_json(here.folder / "timing.json", timing)
    write_settings(here, TRAINING)
    write_json(here.folder / "metrics.json", metrics)
    if arguments.checkpoint is not None:
        forget_progress(arguments.checkpoint.parent)
    say(f"test accuracy {metrics['accuracy']:.4f}; trained in {seconds:.1f} s")


def _networks(here: Round[TrainingJob], normalization: Normalization) -> Networks:
    """New networks, or those of the round before if the recipe starts warm; on the CPU."""
    settings, data, path = here.settings, here.data, here.arguments.checkpoint
    auxiliary = settings.recipe.auxiliary
    if path is None:
        return networks.first_networks(
            settings.model, data.channels, len(data.classes), auxiliary, here.seed, here.number
        )
    checkpoint = networks.load(path)
    checkpoint.check_fits(data.channels, data.classes, settings.model, normalization)
    if (checkpoint.networks.auxiliary is not None) != auxiliary:
        raise UserError(f"{path}: was trained by another recipe (auxiliary module or not)")
    return checkpoint.networks


def _epochs(here: Round[TrainingJob], normalization: Normalization, trained: Networks, progress: Progress) -> Epoch:
    """Train and keep the progress; return the record of the last epoch."""
    settings, labeled = here.settings, here.labeled.known
    epochs = settings.training.epochs

    def line(epoch: Epoch) -> str:
        pairs = "" if epoch.pair_loss is None else f"  pair loss {epoch.pair_loss:.4f}"
        return f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}{pairs}  learning rate {epoch.learning_rate:g}"

    steps = train(
        trained,
        to_tensor(here.data.splits["train"].images[labeled.indices], here.device),
        to_tensor(labeled.labels, here.device),
        settings.training,
        settings.recipe,
        settings.augmentation,
        normalization,
        here.stream(Purpose.BATCHES),
        here.stream(Purpose.AUGMENTATION),
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
            f"training.batch_size: {settings.training.batch_size} leaves one of {len(labeled)} images over, and "
            "batch norm has no variance over one image whose last feature map is one pixel; choose another size"
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
