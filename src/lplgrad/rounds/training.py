"""One round of training and its test, from the labelled set to the files of the round."""

from __future__ import annotations

import numpy as np

from lplgrad import recipes
from lplgrad.machine import devices
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json
from lplgrad.machine.log import say, track
from lplgrad.machine.timing import Stopwatch, describe, peak_memory_mb
from lplgrad.recipes import Learner
from lplgrad.rounds import checkpoints
from lplgrad.rounds.draws import Draws, draws_of
from lplgrad.rounds.evaluation import accuracy, accuracy_per_class, predict
from lplgrad.rounds.files import PROGRESS, QUERY_PROGRESS, forget_progress, write_logits
from lplgrad.rounds.loop import Epoch, train
from lplgrad.rounds.resume import Progress, digest_of
from lplgrad.rounds.round import Round
from lplgrad.rounds.settings import TRAINING, learner_code, write_settings
from lplgrad.study.jobs import TrainingJob
from lplgrad.study.settings import Normalization, Training


def train_and_test(here: Round[TrainingJob]) -> None:
    """Train on the labelled set of a round, test, and write the files of the round, ``metrics.json`` last.

    Raises:
        UserError: the checkpoint or the settings do not fit, numbers are not finite, or memory is short.
    """
    arguments, settings, data = here.arguments, here.settings, here.data
    if data.modality != settings.modality:
        raise UserError(
            f"{arguments.data}: holds examples of the modality {data.modality!r}, not {settings.modality!r}"
        )
    normalization = settings.normalization or Normalization(mean=data.mean, std=data.std)
    here.check_channels(normalization)
    learner = _learner(here, normalization)
    device = here.device
    for one in filter(None, [learner, learner.previous]):
        checkpoints.to_device(one, device)
    inputs = [arguments.data / "dataset.json", arguments.labeled, *filter(None, [arguments.checkpoint, arguments.pool])]
    roots = ["rounds.train.run", *learner_code(settings.recipe, settings.backbone)]
    digest = digest_of([settings.model_dump(), here.files, here.number, here.seed, device.type], inputs, roots)
    machine = describe(device)
    progress = Progress(here.folder / PROGRESS, digest, arguments.progress_seconds, here.wanted, machine["device"])
    epochs = learner.stages * settings.training.epochs
    known = len(here.labeled.known)
    unknown = f" ({len(here.labeled) - known} more are unknown)" if known < len(here.labeled) else ""
    say(f"round {here.number}, seed {here.seed}: {known} labels{unknown}, {epochs} epochs on {device}")
    watch = Stopwatch(device)
    draws = draws_of(here, normalization, settings.training.batch_size, here.stream)
    last = train_all(learner, draws, settings.training, settings.compute.precision, progress)
    seconds = watch.seconds()

    logits = predict(learner, here.batches("test", None, normalization))["logits"].cpu().numpy()
    if not np.isfinite(logits).all():  # the loss was finite before the last step
        raise UserError(f"the weights are not finite after epoch {epochs} of {epochs}; lower training.learning_rate")
    metrics = {
        "round": here.number,
        "labels": known,
        "accuracy": accuracy(logits, data.splits["test"].labels),
        "accuracy_per_class": dict(
            zip(data.classes, accuracy_per_class(logits, data.splits["test"].labels), strict=True)
        ),
        "train_loss": last.means["loss"],
        "stopped": False,
    }
    timing = {
        "train_seconds": round(progress.earlier_seconds + seconds, 4),
        "test_seconds": round(watch.seconds() - seconds, 4),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        **machine,
        "device": "; ".join(progress.devices),
    }
    about = checkpoints.Description(
        settings.backbone, settings.recipe, here.shape, normalization, data.classes, data.modality, data.fit, here.files
    )
    checkpoints.save(here.folder / "checkpoint.safetensors", learner, about)
    write_logits(here.folder / "test_logits.npy", logits)
    write_json(here.folder / "timing.json", timing)
    write_settings(here, TRAINING)
    write_json(here.folder / "metrics.json", metrics)
    forget_progress(arguments.labeled.parent, QUERY_PROGRESS)
    if arguments.checkpoint is not None:
        forget_progress(arguments.checkpoint.parent)
    say(f"test accuracy {metrics['accuracy']:.4f}; trained in {seconds:.1f} s")


def _learner(here: Round[TrainingJob], normalization: Normalization) -> Learner:
    """Return a learner with new networks, or with those of the round before if the recipe starts warm; on the CPU."""
    settings, data, path = here.settings, here.data, here.arguments.checkpoint
    recipe, backbone = settings.recipe, settings.backbone
    learner = checkpoints.build(backbone, recipe, here.shape, len(data.classes))
    before = None if path is None else checkpoints.load(path)
    if before and len(before.about.classes) < len(data.classes) and here.pool:
        say(f"round {here.number}: there are new classes, so the model starts with new weights")
        before = None
    if before is not None:
        before.check_fits(here.shape, data.classes, backbone, recipe, normalization)
        if recipes.registry.load(recipe.trains).reads_previous(recipe.checked_options):
            learner.previous = before.learner
            for network in learner.previous.networks.values():
                network.eval().requires_grad_(False)
        if recipe.init == "warm":
            return checkpoints.with_weights(learner, before if learner.previous is None else checkpoints.load(path))
    return checkpoints.first_weights(learner, backbone, here.stream)


def train_all(learner: Learner, draws: Draws, training: Training, precision: str, progress: Progress) -> Epoch:
    """Train for all epochs, keep the progress and log each epoch; return the record of the last one.

    Raises:
        UserError: a loss is not finite, memory is short, or a mini-batch is too small for batch norm.
        Interrupted: the process received a signal to end.
    """
    epochs = learner.stages * training.epochs

    def line(epoch: Epoch) -> str:
        means = "  ".join(f"{name} {mean:.4f}" for name, mean in epoch.means.items())
        return f"epoch {epoch.number}/{epochs}  {means}  learning rate {epoch.learning_rate:g}"

    steps = train(learner, draws, training, precision, progress.attach)
    try:
        with devices.tf32(precision == "tf32"):
            for _ in track(progress.keep(steps), epochs, "epochs", line):
                pass
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"training.batch_size: {training.batch_size} leaves one of {draws.labeled_count} examples over, "
            "and batch norm has no variance over a single number per channel; choose another size"
        ) from None
    except RuntimeError as error:
        if not devices.lacks_memory(error):
            raise
        raise UserError(
            f"out of memory in a step of training.batch_size: {training.batch_size}; lower it, or "
            "compute.jobs_per_gpu if other jobs share the card"
        ) from None
    assert progress.state is not None
    assert progress.state.last is not None
    return progress.state.last
