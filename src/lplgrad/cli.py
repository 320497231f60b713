"""The command line: one table of commands, each with its module and its arguments.

Only the module of the command that runs is imported, so ``lplgrad --help`` needs a fraction of a second.
"""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lplgrad import __version__
from lplgrad.machine.errors import UserError
from lplgrad.machine.signals import ENDING, Interrupted, ends_cleanly

Argument = tuple[str, dict[str, Any]]  # its name, and what ``ArgumentParser.add_argument`` takes


@dataclass(frozen=True)
class Kind:
    """A kind of table or figure.

    Attributes:
        function: makes it, given the study and what it needs; a name below ``lplgrad``.
        needs: the options that must be given, without their dashes.
    """

    function: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        module: its ``run`` takes the parsed arguments; of ``module:function`` that function does.
        about: what the command does, in one line.
        example: a call that works in the project's folder.
        arguments: in the order of the help.
        kinds: the kinds of tables and figures that the command makes.
        late: modules that most of its jobs import, but not all.
    """

    module: str
    about: str
    example: str
    arguments: list[Argument] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)
    late: tuple[str, ...] = ()


def _arg(name: str, about: str, **options: Any) -> Argument:
    return name, {"help": about, **options}


def _path(name: str, metavar: str | tuple[str, ...], about: str, **options: Any) -> Argument:
    return _arg(name, about, type=Path, metavar=metavar, **options)


def _needed(name: str, metavar: str, about: str, **options: Any) -> Argument:
    return _path(name, metavar, about, required=True, **options)


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], not {text}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}, not {text}")
    return value


DATA = _needed("--data", "DIR", "folder of a prepared data set")
LABELED = _needed("--labeled", "CSV", "the labelled set of the round")
ROUND = _arg("--round", "the round, from 1", type=count, required=True)
SEED = _arg("--seed", "seed of the trial", type=seed, required=True)
BOUGHT = _arg(
    "--bought", "labels bought by each round up to this one, to refuse a file that was cut off", type=count, nargs="+"
)
TARGET = _arg("--target-accuracy", "test accuracy at which the trial stops", type=fraction, metavar="FRACTION")
JOBS_PER_GPU = _arg(
    "--jobs-per-gpu", "how many jobs may share a GPU (default: %(default)s)", type=count, default=1, metavar="N"
)
PROGRESS_SECONDS = _arg(
    "--progress-seconds", "seconds between two notes of the progress (default: %(default)s)", type=seconds, default=20,
    metavar="S",
)  # fmt: skip
CONFIGURATION = _path("files", "FILE", "configuration files, each merged over the ones before", nargs="+")
STUDY = _needed("--study", "FILE", "study.yaml of the study")
MEASUREMENTS = _path("--measurements", "CSV", "measurements.csv")
TIMINGS = _path("--timings", "CSV", "timings.csv")
PARTIAL = _arg("--partial", "the study is not finished: rounds may be missing", action="store_true")
FILES = _needed("--output", "FILE", "files to write; their endings name the formats", nargs="+")


POOL = _path("--pool", "FILE", "pool of the round, of a data set that a person labels", nargs="?")


def _folder(about: str) -> Argument:
    return _needed("--output", "DIR", about)


def _settings(about: str, **options: Any) -> Argument:
    return _arg("--settings", about, metavar="KEY=VALUE", nargs="+", **options)


TRIAL = ("budget", "dataset", "strategy", "seed")
TRIAL_OPTIONS = [
    _arg("--budget", "name of the budget"), _arg("--dataset", "name of the data set"),
    _arg("--strategy", "name of the strategy"), _arg("--seed", "seed of the trial", type=int),
]  # fmt: skip
TABLES = {
    "datasets": Kind("paper.tables.datasets"),
    "budgets": Kind("paper.tables.budgets"),
    "deviations": Kind("report.deviations.deviations", ("presets",)),
    "accuracy": Kind("report.tables.accuracy", ("measurements",)),
    "accuracy-against-paper": Kind("paper.tables.accuracy", ("measurements",)),
    "ablation": Kind("paper.ablation.ablation", ("measurements",)),
    "time": Kind("report.tables.time", ("timings",)),
    "time-against-paper": Kind("paper.tables.time", ("timings",)),
    "chosen-files": Kind("report.trial_figures.chosen_files", TRIAL),
}
FIGURES = {
    "learning-curves": Kind("report.figures.learning_curves", ("measurements", "budget")),
    "dataset-curves": Kind("report.figures.dataset_curves", ("measurements", "dataset")),
    "strategy": Kind("report.figures.strategy", ("measurements", "classes", "budget", "dataset", "strategy")),
    "differences": Kind("report.forests.differences", ("measurements",)),
    "gains": Kind("report.forests.gains", ("measurements",)),
    "penalties": Kind("report.comparison_figures.penalties", ("measurements",)),
    "ranks": Kind("report.comparison_figures.ranks", ("measurements",)),
    "cost": Kind("report.cost.cost", ("measurements", "timings", "budget")),
    "calibration": Kind("report.comparison_figures.calibration", ("diagnostics", "budget")),
    "choices": Kind("report.comparison_figures.choices", ("diagnostics", "budget")),
    "chosen": Kind("report.trial_figures.chosen", TRIAL),
    "class-accuracy": Kind("report.trial_figures.class_accuracy", ("classes", *TRIAL)),
    "embeddings": Kind("report.trial_figures.embeddings", TRIAL),
    "confidence": Kind("report.trial_figures.confidence", TRIAL),
    "loss-correlation": Kind("report.trial_figures.loss_correlation", TRIAL),
}

# In the order in which data flows.
COMMANDS = {
    "prepare": Command(
        "lplgrad.datasets.prepared.prepare:run_command",
        "Prepare a data set: read or download its examples once and write them as arrays",
        "lplgrad prepare --settings source=digits --output data/digits",
        [
            _settings("the data set's source and the source's options", required=True),
            _path("--downloads", "DIR", "folder of downloads (default: %(default)s)", default=Path("data/downloads")),
            _arg("--threads", "threads that decode images (default: %(default)s)", type=count, default=1),
            _folder("folder of the prepared data set"),
        ],
    ),
    "files": Command(
        "lplgrad.datasets.prepared.file_names",
        "Name the file of each example of a prepared data set: write index, split, path and class",
        "lplgrad files --data data/digits --output data/digits/files.csv",
        [
            DATA,
            _path("--downloads", "DIR", "folder of downloads (default: %(default)s)", default=Path("data/downloads")),
            _arg("--threads", "threads that decode images (default: %(default)s)", type=count, default=1),
            _needed("--output", "CSV", "file to write"),
        ],
    ),
    "start": Command(
        "lplgrad.rounds.start",
        "Draw examples of the training pool at random, or choose them, and write their labels: those of round 1",
        "lplgrad start --data data/digits --query-size 25 --seed 1 --output labeled.csv",
        [
            DATA,
            _arg("--query-size", "how many examples a query labels", type=count, required=True),
            _arg("--size", "how many examples are drawn (default: as many as a query labels)", type=count),
            _arg("--draw", "uniform, or with classes in proportion to the pool (default: %(default)s)",
                 choices=["uniform", "stratified"], default="uniform"),
            _arg("--candidates", "candidates of a query, to refuse too many early", type=int, metavar="S"),
            _arg("--labels", "labels of the whole budget, to refuse too many early", type=int, metavar="A"),
            _arg("--settings", "acquisition, options, features and compute, to choose instead of drawing",
                 metavar="KEY=VALUE", nargs="*", default=[]),
            SEED, JOBS_PER_GPU,
            _needed("--output", "CSV", "the labelled set to write"),
        ],
    ),
    "answers": Command(
        "lplgrad.labeling.answers",
        "Collect the labels that a person has given: write the labelled set and the pool of a round",
        "lplgrad answers --data data/photos --settings source=image_folder path=photos oracle=person image_size=64 \\\n"
        "      --round 1 --answers labels/photos --output labeled.csv pool.json",
        [
            DATA, ROUND, _needed("--answers", "DIR", "folder of the tables that a person fills in"),
            _path("--labeled", "CSV", "the labelled set of the round before", nargs="?"),
            _path("--pool", "FILE", "pool of the round before", nargs="?"),
            _path("--batch", "CSV", "images that the query of the round before chose", nargs="?"),
            _settings("the data set's source and the source's options", required=True),
            _arg("--classes", "list of all classes that may be given (default: the folders of labelled images)",
                 metavar="JSON"),
            _arg("--threads", "threads that decode images (default: %(default)s)", type=count, default=1),
            _path("--output", ("CSV", "FILE"), "the labelled set and the pool to write", nargs=2, required=True),
        ],
    ),
    "train": Command(
        "lplgrad.rounds.train",
        "Train for one round and test: write the checkpoint, the test logits, the metrics and the time it took",
        "lplgrad train --data data/digits --labeled labeled.csv --round 1 --seed 1 --output round1 \\\n"
        "      --settings backbone.name=small_resnet training.epochs=60 'training.milestones=[48]' recipe.trains=joint",
        [
            DATA, LABELED,
            _path("--checkpoint", "FILE", "checkpoint of the round before, which a warm start continues", nargs="?"),
            ROUND, BOUGHT, TARGET, POOL,
            _path("--previous", "DIR", "folder of the round before, repeated if it was the last", nargs="?"), SEED,
            _settings("backbone, training, augmentation, normalization, recipe and compute", default=[]),
            PROGRESS_SECONDS, JOBS_PER_GPU, _folder("folder of the round"),
        ],
        late=("lplgrad.rounds.training",),
    ),
    "query": Command(
        "lplgrad.rounds.query",
        "Score the candidates and choose: write every score, and the labelled set of the next round",
        "lplgrad query --data data/digits --labeled labeled.csv --checkpoint round1/checkpoint.safetensors \\\n"
        "      --round 1 --seed 1 --settings acquisition=gradient_norm query_size=20 candidates=600 \\\n"
        "      --output round1",
        [
            DATA, LABELED,
            _path("--checkpoint", "FILE", "checkpoint of the round; random needs none", nargs="?"),
            ROUND, BOUGHT, TARGET, POOL,
            _path("--answers", "DIR", "folder of the tables that a person fills in, with --pool"),
            _arg("--labels", "labels of the whole budget, with --pool", type=count, metavar="A"),
            _path("--metrics", "FILE", "metrics of the round, for --target-accuracy", nargs="?"), SEED,
            _settings("acquisition, options, query_size, candidates, query_transform, augmentation", required=True),
            PROGRESS_SECONDS, JOBS_PER_GPU, _folder("folder of the round"),
        ],
        late=("lplgrad.rounds.needs",),
    ),
    "observe": Command(
        "lplgrad.rounds.observe",
        "Look into a round's model: features, losses and scores of test examples, confidence in training examples",
        "lplgrad observe --data data/digits --labeled labeled.csv --checkpoint round1/checkpoint.safetensors \\\n"
        "      --seed 1 --output round1",
        [
            DATA, LABELED,
            _needed("--checkpoint", "FILE", "checkpoint of the round"), SEED,
            POOL, _settings("unlabeled_images, embedded_images and compute", default=[]), JOBS_PER_GPU,
            _folder("folder for features.npy, observed.csv and confidence.csv"),
        ],
    ),
    "predict": Command(
        "lplgrad.tools.predict",
        "Predict image files with a checkpoint: write class, confidence, entropy and all probabilities of each",
        "lplgrad predict --checkpoint round1/checkpoint.safetensors --images new_images --output predictions.csv",
        [
            _needed("--checkpoint", "FILE", "checkpoint of a round"),
            _needed("--images", "PATH", "folders of images, or image files", nargs="+"),
            _arg("--value-range", "the numbers that are black and white, as the setting value_range of the data set; "
                 "for grey images with other than unsigned 8-bit numbers", type=float, nargs=2,
                 metavar=("LOW", "HIGH")),
            _arg("--threads", "threads that decode, and that compute on a CPU (default: the number of cores)",
                 type=count),
            _arg("--device", "auto takes a GPU where there is one (default: %(default)s)",
                 choices=["auto", "cpu", "cuda"], default="auto"),
            _arg("--skip-unreadable", "leave out images that cannot be read (else an error)", action="store_true"),
            _needed("--output", "CSV", "table to write; the same command continues it after an interruption"),
        ],
    ),
    "study": Command(
        "lplgrad.study.record",
        "Write down a study: its whole configuration, merged and checked, so that its folder explains itself",
        "lplgrad study config.yaml demo.yaml --output results/demo/study.yaml",
        [
            _path("files", "FILE", "configuration files, each merged over the ones before", nargs="*"),
            _settings("the merged configuration itself, instead of files"),
            _arg("--unavailable", "data sets that are not available, with the reason", default="{}", metavar="YAML"),
            _arg("--prepared", "check the budgets against the prepared data sets", action="store_true"),
            _path("--output", "FILE", "file to write (default: standard output)"),
        ],
    ),
    "measurements": Command(
        "lplgrad.analysis.collect",
        "Collect accuracies: one row for each round, and one for each class and round, from all metrics.json",
        "lplgrad measurements --study results/demo/study.yaml --output results/demo",
        [STUDY, _folder("folder for measurements.csv and classes.csv")],
    ),
    "timings": Command(
        "lplgrad.analysis.collect:run_timings",
        "Collect seconds: one row for each round, from all timing.json and query_timing.json",
        "lplgrad timings --study results/demo/study.yaml --output results/demo/timings.csv",
        [STUDY, _needed("--output", "CSV", "file to write")],
    ),
    "table": Command(
        "lplgrad.report.tables",
        "Make a table: its numbers as .csv, and a page to read as .html",
        "lplgrad table accuracy --study results/demo/study.yaml --measurements results/demo/measurements.csv \\\n"
        "      --output accuracy.csv accuracy.html",
        [
            _arg("kind", "which table", choices=list(TABLES)), STUDY, MEASUREMENTS, TIMINGS, *TRIAL_OPTIONS,
            _path("--presets", ("PAPER", "AUTHORS_CODE"), "config.yaml, and the overlay of the authors' code", nargs=2),
            PARTIAL, FILES,
        ],
        TABLES,
    ),
    "figure": Command(
        "lplgrad.report.figures",
        "Draw a figure: in every format that the endings of the outputs name (.svg, .pdf, .png)",
        "lplgrad figure learning-curves --study results/demo/study.yaml \\\n"
        "      --measurements results/demo/measurements.csv --budget small --output curves.svg curves.png",
        [
            _arg("kind", "which figure", choices=list(FIGURES)), STUDY, MEASUREMENTS, TIMINGS,
            _path("--classes", "CSV", "classes.csv"), _path("--diagnostics", "DIR", "folder of lplgrad diagnostics"),
            *TRIAL_OPTIONS,
            _arg("--highlight", "strategies to show in colour, the others in grey (default: those in study.yaml)",
                 nargs="+", metavar="STRATEGY"),
            PARTIAL, FILES,
        ],
        FIGURES,
    ),
    "statistics": Command(
        "lplgrad.report.statistics",
        "Compare strategies by their measurements: tables of every statistic as .csv, and a page to read",
        "lplgrad statistics --study results/demo/study.yaml --measurements results/demo/measurements.csv \\\n"
        "      --output results/demo/statistics",
        [
            STUDY, _needed("--measurements", "CSV", "measurements.csv"),
            _arg("--accuracies", "accuracies to count labels for (default: round numbers on the curves)", type=float,
                 nargs="+", default=[], metavar="PERCENT"),
            PARTIAL, _folder("folder for the tables and the page"),
        ],
    ),
    "diagnostics": Command(
        "lplgrad.report.diagnostics",
        "Look beyond accuracy: calibration, what every query chose, how scores rank losses",
        "lplgrad diagnostics --study results/demo/study.yaml --output results/demo/statistics",
        [STUDY, _folder("folder for the tables and the page")],
    ),
    "claims": Command(
        "lplgrad.paper.claims",
        "Judge the paper's claims by its own numbers and by a study's: tables as .csv, and a page to read",
        "lplgrad claims --study results/demo/study.yaml --measurements results/demo/measurements.csv \\\n"
        "      --timings results/demo/timings.csv --output results/demo/claims",
        [
            STUDY, _needed("--measurements", "CSV", "measurements.csv"),
            _path("--timings", "CSV", "timings.csv, for claims of time"),
            _path("--claims", "FILE", "the claims (default: the paper's)"),
            PARTIAL, _folder("folder for the tables and the page"),
        ],
    ),
    "report": Command(
        "lplgrad.report.partial",
        "Make tables and figures of the finished rounds of a study: without Snakemake, even while it runs",
        "lplgrad report config.yaml demo.yaml --partial --output so_far",
        [
            CONFIGURATION,
            _arg("--partial", "leave gaps where rounds are missing (else an error)", action="store_true"),
            _folder("folder to write to"),
        ],
        {**TABLES, **FIGURES},
    ),
    "label": Command(
        "lplgrad.labeling.label",
        "Label the images that wait: on a local page, or with answers from a file",
        "lplgrad label photos.yaml",
        [
            CONFIGURATION,
            _path("--import", "FILE", "take answers from a table (file, label) or an export of Label Studio (.json)",
                  dest="imported"),
            _path("--tasks", "JSON", "write the images as tasks for Label Studio"),
            _arg("--finish", "go on without the images that have no answer yet", action="store_true"),
            _arg("--port", "port of the page (default: a free one)", type=int, default=0),
            _arg("--no-browser", "only print the address of the page", action="store_true"),
        ],
    ),
    "review": Command(
        "lplgrad.report.review",
        "Review a study that a person labels: accuracy, confused classes, suspicious labels, the next images",
        "lplgrad review --study results/photos/study.yaml --output results/photos/review",
        [STUDY, _folder("folder for the tables, the figures and the page")],
    ),
    "status": Command(
        "lplgrad.tools.status",
        "Show how far a study is: rounds, accuracy and seconds so far, what runs, what failed, what is left",
        "lplgrad status config.yaml demo.yaml",
        [CONFIGURATION],
    ),
    "estimate": Command(
        "lplgrad.tools.estimate",
        "Estimate what a study costs before it is run: hours on this machine, by timing some steps of it, and disk",
        "lplgrad estimate config.yaml demo.yaml",
        [
            CONFIGURATION,
            _path("--rates", "CSV", "rates of another machine, by python -m benchmarks --only rates"),
            _arg("--jobs", "jobs that run at a time (default: what this machine would run)", type=count, metavar="N"),
        ],
    ),
    "schema": Command(
        "lplgrad.study.schema",
        "Print the JSON schema of the configuration: editors complete keys and underline mistakes by it",
        "lplgrad schema",
    ),
}  # fmt: skip


def modules_of(arguments: Sequence[str]) -> list[str]:
    """Return the modules that most jobs of a command import, given its name and its first argument."""
    command = COMMANDS[arguments[0]]
    kind = command.kinds.get(arguments[-1])
    function = [f"lplgrad.{kind.function.rpartition('.')[0]}"] if kind else []
    return [command.module.partition(":")[0], *command.late, *function]


def parser() -> argparse.ArgumentParser:
    """Build the parser, with a sub-parser for each command."""
    top = argparse.ArgumentParser(prog="lplgrad", description="Deep active learning, a round at a time.")
    top.add_argument("--version", action="version", version=f"lplgrad {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="command")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.about.split(":")[0],
            description=f"{command.about}.",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for argument, options in command.arguments:
            sub.add_argument(argument, **options)
        sub.set_defaults(module=command.module, prog=sub.prog, kinds=command.kinds)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. A mistake of the user is one line and exit status 1; a bug is a traceback."""
    # Importing torch makes a million objects that live to the end. Collecting garbage among them every 700 allocations
    # is a tenth of the cost of a small job.
    gc.set_threshold(100_000)
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser().print_help(sys.stderr)
        return 2
    parsed = parser().parse_args(given)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # which the fork server blocks
        module, _, function = parsed.module.partition(":")
        getattr(importlib.import_module(module), function or "run")(parsed)
    except UserError as error:
        return _fail(parsed.prog, str(error))
    except BrokenPipeError:
        return 0  # the reader of the output is gone
    except MemoryError as error:
        return _fail_for_memory(parsed.prog, str(error))
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
        if error.errno == errno.ENOMEM:
            return _fail_for_memory(parsed.prog, message)
        if error.filename is None:
            raise
        return _fail(parsed.prog, message)
    except RuntimeError as error:
        if "torch" not in sys.modules:
            raise
        from lplgrad.machine.devices import lacks_memory  # imports torch

        if not lacks_memory(error):
            raise
        return _fail_for_memory(parsed.prog, str(error))
    except Interrupted as error:
        return _fail(parsed.prog, str(error), status=128 + error.number)
    except KeyboardInterrupt:
        return _fail(parsed.prog, "interrupted", status=130)
    return 0


def run() -> NoReturn:
    """Run the program and exit at once: taking torch apart would cost a third of its import. All files are closed."""
    ends_cleanly()
    status = main()
    with suppress(BrokenPipeError):  # the reader of the output is gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _fail_for_memory(prog: str, message: str) -> int:
    cause = f" ({message.splitlines()[0]})" if message else ""  # Python's own MemoryError has no message
    hint = "lower compute.jobs_per_gpu if other jobs share the card, or Snakemake's --cores on a processor"
    return _fail(prog, f"out of memory{cause}; {hint}")


def _fail(prog: str, message: str, status: int = 1) -> int:
    with suppress(OSError):
        print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
