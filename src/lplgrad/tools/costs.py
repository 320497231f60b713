"""What a study costs, before it is run: the rates of a machine times the images of the study. Arithmetic alone.

Nothing here runs a model: how fast a machine is comes from ``lplgrad.tools.rates`` or from a file of measured rates.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lplgrad import acquisition, datasets
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds.pool import TEST_IMAGES
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.settings import Compute, Model, Study

Task = Literal["train plain", "train joint", "predict", "gradient norms", "k-center", "start a job"]
Rates = Mapping[tuple[str, str], float]  # seconds by (key, task)
ANY = "any model"
FLOAT = 4  # bytes
# Of sources that do not tell before they are prepared: side, channels, classes, test images.
KNOWN = {
    "cifar10": (32, 3, 10, 10_000),
    "cifar100": (32, 3, 100, 10_000),
    "svhn": (32, 3, 10, 26_032),
    "caltech101": (224, 3, 101, 2_877),
    "digits": (8, 1, 10, 597),
}
# As in models.py, which needs torch; the tests hold them together.
ARCHITECTURES = {"resnet18": ((2, 2, 2, 2), 64), "small_resnet": ((1, 1, 1), 16)}


@dataclass(frozen=True)
class Images:
    """The size of a data set: side of an image in pixels, channels, classes, and images of either split."""

    side: int
    channels: int
    classes: int
    pool: int
    test: int


@dataclass(frozen=True)
class Cost:
    """What one data set costs in one budget, over all its strategies and seeds.

    Attributes:
        budget, dataset: which.
        trainings, queries: number of jobs.
        image_epochs: images that training passes through the model, counted once an epoch.
        training_seconds: with the test after it.
        query_seconds: of all queries, with the test images that are scored after them.
        start_seconds: starting jobs.
        longest_seconds: of the longest trial, whose rounds wait for each other.
        final_bytes: on disk when all is done.
        checkpoint_bytes: the largest checkpoint.
    """

    budget: str
    dataset: str
    trainings: int
    queries: int
    image_epochs: int
    training_seconds: float
    query_seconds: float
    start_seconds: float
    longest_seconds: float
    final_bytes: int
    checkpoint_bytes: int

    @property
    def seconds(self) -> float:
        """Of all jobs, one after another."""
        return self.training_seconds + self.query_seconds + self.start_seconds


def key(model: Model, side: int, channels: int, compute: Compute) -> str:
    """What a rate belongs to, as it stands in a file of rates."""
    width = model.width or ARCHITECTURES[model.name][1]
    return f"{model.name} of width {width}, {model.stem} stem, {side}x{side}x{channels}, {compute.precision}"


def images_of(study: Study, dataset: str) -> Images:
    """The size of a data set, read where it is prepared, else from its source and options.

    Raises:
        UserError: neither tells.
    """
    row = study.datasets[dataset]
    manifest = Path(study.data_dir) / dataset / "dataset.json"
    if manifest.exists():
        described = read_json(manifest)
        try:
            train, test = (described["splits"][split]["images"] for split in ("train", "test"))
            return Images(min(train[1:3]), train[3], len(described["classes"]), train[0], test[0])
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{manifest}: not the description of a data set; prepare it anew") from None
    source = datasets.load(row.source)
    options = source.options.model_validate(row.options)
    # A folder of photographs: as many classes as in the paper's, which decides no more than some kB.
    side, channels, classes, test = KNOWN.get(row.source, (None, 3, 6, None))
    side = getattr(options, "image_size", None) or side
    test = getattr(options, "test_images", None) or test
    pool = source.pool_size(options) or max(budget.labels for budget in row.budgets.values())
    if side is None or test is None:
        raise UserError(
            f"datasets.{dataset}: its size is known once it is prepared (add --until prepare to your snakemake command)"
        )
    return Images(side, channels, classes, pool, test)


def parameters(model: Model, channels: int, classes: int) -> tuple[int, int]:
    """Parameters of a main model, and the numbers in its buffers, which checkpoints hold too."""
    blocks, width = ARCHITECTURES[model.name]
    width = model.width or width
    weights = width * channels * (7 if model.stem == "imagenet" else 3) ** 2 + 2 * width
    norms = [width]
    before = width
    for stage, count in enumerate(blocks):
        after = width * 2**stage
        for block in range(count):
            inner = before if block == 0 else after
            weights += 9 * inner * after + 9 * after * after + 4 * after
            norms += [after, after]
            if inner != after:
                weights += inner * after + 2 * after
                norms.append(after)
        before = after
    return weights + before * classes + classes, sum(2 * features for features in norms) + 2 * len(norms)


def checkpoint_bytes(model: Model, channels: int, classes: int, auxiliary: bool) -> int:
    """Size of a checkpoint, but for its header of a few kB."""
    numbers = sum(parameters(model, channels, classes))  # the count of batches is an int64: two floats
    if auxiliary:
        blocks, width = ARCHITECTURES[model.name]
        stages = [(model.width or width) * 2**stage for stage in range(len(blocks))]
        numbers += sum(128 * features + 128 for features in stages) + 128 * len(stages) + 1
    return FLOAT * numbers


def estimate(layout: Layout, rates: Rates) -> list[Cost]:
    """The costs of a study. A trial that stops at a target accuracy is counted as if it did not.

    Args:
        layout: the study, laid out.
        rates: of a machine: seconds an image (``train``: forward, backward and update; ``predict``: forward;
            ``gradient norms``), seconds a pair of points (``k-center``), seconds a job (``start a job``).

    Raises:
        UserError: a rate is missing.
    """
    costs = []
    for budget in layout.study.run.budgets:
        for dataset in layout.datasets:
            trials = [trial for trial in layout.trials() if (trial.budget, trial.dataset) == (budget, dataset)]
            costs.append(_cost(layout, trials, rates))
    return costs


def _cost(layout: Layout, trials: list[Trial], rates: Rates) -> Cost:
    study, budget, dataset = layout.study, trials[0].budget, trials[0].dataset
    row, images = study.datasets[dataset], images_of(study, dataset)
    rounds, start = layout.rounds(budget, dataset), _rate(rates, ANY, "start a job")
    model_key = key(row.model, images.side, images.channels, study.compute)
    shown = layout.shown_models()
    trained: set[str] = set()
    image_epochs = queries = final = largest = 0
    training = querying = longest = starting = 0.0
    for trial in trials:
        strategy = study.strategies[trial.strategy]
        auxiliary = study.recipes[strategy.recipe].auxiliary
        checkpoint = checkpoint_bytes(row.model, images.channels, images.classes, auxiliary)
        largest = max(largest, checkpoint)
        alone = 0.0
        for number in range(1, rounds + 1):
            labels = number * row.budgets[budget].query_size
            seconds = labels * row.training.epochs * _rate(
                rates, model_key, "train joint" if auxiliary else "train plain"
            ) + images.test * _rate(rates, model_key, "predict")
            alone += seconds + start
            folder = layout.trained(trial, number)
            if folder not in trained:
                trained.add(folder)
                image_epochs += labels * row.training.epochs
                training += seconds
                starting += start
                final += images.test * images.classes * FLOAT
                if number in (1, rounds, *shown.get(trial, [])) or study.keep_checkpoints:
                    final += checkpoint
            if number < rounds:
                seconds = query_seconds(layout, trial, number, images, rates)
                querying += seconds
                alone += seconds + start
                queries += 1
                starting += start
                subset = row.budgets[budget].subset or images.pool - labels
                final += 36 * subset + 9 * (labels + row.budgets[budget].query_size)  # scores.csv, next_labeled.csv
                final += 25 * scored_test_images(layout, trial, images)  # test_scores.csv
        longest = max(longest, alone)
    return Cost(
        budget, dataset, len(trained), queries, image_epochs, training, querying, starting, longest, final, largest
    )


def query_seconds(layout: Layout, trial: Trial, number: int, images: Images, rates: Rates) -> float:
    """Seconds of the query of a round, and of scoring test images after it."""
    row = layout.study.datasets[trial.dataset]
    budget = row.budgets[trial.budget]
    labels = number * budget.query_size
    subset = budget.subset or images.pool - labels
    needs = acquisition.load(layout.study.strategies[trial.strategy].acquisition).needs
    model_key = key(row.model, images.side, images.channels, layout.study.compute)
    tests = scored_test_images(layout, trial, images)
    if "gradient_norms" in needs:
        return (subset + tests) * _rate(rates, model_key, "gradient norms")
    if not needs:
        return 0.0
    seconds = (subset + tests) * _rate(rates, model_key, "predict")
    if "labeled_features" in needs:
        seconds += labels * _rate(rates, model_key, "predict")
        seconds += subset * (labels + budget.query_size) * _rate(rates, ANY, "k-center")
    return seconds


def scored_test_images(layout: Layout, trial: Trial, images: Images) -> int:
    """How many test images are scored after every query of a trial."""
    function = acquisition.load(layout.study.strategies[trial.strategy].acquisition)
    return min(images.test, TEST_IMAGES) if function.scores_images_alone else 0


def peak_bytes(costs: Iterable[Cost], jobs: int) -> int:
    """The most on disk at any time: a trial under way has at most one checkpoint, as when it is done; a job that runs
    writes one more, and beside it notes weights and momentum to go on from.
    """
    costs = list(costs)
    return sum(cost.final_bytes for cost in costs) + jobs * 3 * max(cost.checkpoint_bytes for cost in costs)


def data_bytes(layout: Layout) -> int:
    """The prepared data sets, without downloads."""
    sizes = [images_of(layout.study, name) for name in layout.datasets]
    return sum((size.pool + size.test) * (size.side**2 * size.channels + 8) for size in sizes)


def read_rates(path: Path) -> dict[tuple[str, str], float]:
    """Rates from a file that ``python -m benchmarks`` wrote: of its rows those of the benchmark ``rates``.

    Raises:
        UserError: it has none, it is cut off, or a rate is not a positive number.
    """
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


def _rate(rates: Rates, of: str, task: Task) -> float:
    try:
        return rates[of, task]
    except KeyError:
        known = "; ".join(sorted({name for name, _ in rates})) or "none"
        raise UserError(f"no rate for {task!r} of {of} (there are: {known}); --measure takes it here") from None
