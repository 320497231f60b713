"""The work of a study: the sizes of its data sets, and the tasks that each strategy has on each of them.

Nothing here knows a recipe, an acquisition function or a source by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lplgrad import acquisition, datasets, modalities
from lplgrad.acquisition import is_representation
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds.representation import width_of
from lplgrad.study.layout import Layout
from lplgrad.study.settings import Dataset, RecipeRow, Strategy, Study, Training


class Size(NamedTuple):
    """The size of a data set."""

    shape: tuple[int, ...]  # of a stored example, as the modality says
    classes: int
    pool: int
    test: int
    pool_is_known: bool = True  # otherwise the pool has as many examples as its budgets need


def size_of(study: Study, dataset: str) -> Size:
    """Read the size of a prepared data set, or take it from its source.

    Raises:
        UserError: neither knows it.
    """
    row = study.datasets[dataset]
    manifest = Path(study.data_dir) / dataset / "dataset.json"
    if manifest.exists():
        described = read_json(manifest)
        try:
            train, test = (described["splits"][split]["inputs"] for split in ("train", "test"))
            return Size(tuple(map(int, train[1:])), len(described["classes"]), int(train[0]), int(test[0]))
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{manifest}: not the description of a data set; prepare it anew") from None
    options = row.checked_options
    found = datasets.registry.load(row.source).size(options, Path(study.data_dir) / "downloads")
    if found is None:
        keys = [key for key in ("image_size", "test_images") if getattr(options, key, 0) is None]
        path = getattr(options, "path", None)
        absent = path is not None and not Path(path).expanduser().exists()
        ways = [f"set {' and '.join(keys)}"] if keys else []
        ways += ["place its files there"] if absent else ["prepare it (add --until prepare to your snakemake command)"]
        where = f" ({path} is not there)" if absent else ""
        raise UserError(f"datasets.{dataset}: its size is not known yet{where}; {', or '.join(ways)}")
    if found.pool is not None:
        return Size(found.shape, found.classes, found.pool, found.test)
    budgets = [row.budgets[name] for name in study.run.budgets]
    least = max(max(one.labels, one.bought(one.rounds - 1) + (one.subset or 0)) for one in budgets)
    return Size(found.shape, found.classes, least, found.test, pool_is_known=False)


def sizes_of(layout: Layout) -> dict[str, Size]:
    """Return the sizes of all data sets of a study, as ``size_of``."""
    return {name: size_of(layout.study, name) for name in layout.datasets}


def random_examples(row: Dataset, shape: Sequence[int], count: int, draw: np.random.Generator) -> npt.NDArray[Any]:
    """Draw examples as they are stored, shape (count, ...): bytes, or floats if the modality refuses bytes."""
    found: npt.NDArray[Any] = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
    if modalities.registry.load(row.modality).problem(found) is not None:
        found = draw.standard_normal((count, *shape), dtype=np.float32)
    return found


class Work(NamedTuple):
    """What one data set has to be done with a strategy, and the names of its rates.

    Each name holds all that the rate depends on, but for the number of classes. The options of a recipe and of an
    acquisition function are part of its label.
    """

    study: Study
    dataset: str
    size: Size
    strategy: Strategy

    @property
    def row(self) -> Dataset:
        """The data set."""
        return self.study.datasets[self.dataset]

    @property
    def recipe(self) -> RecipeRow:
        """How the strategy trains."""
        return self.study.recipes[self.strategy.recipe]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one network input."""
        return modalities.registry.load(self.row.modality).input_shape(self.size.shape)

    @property
    def side_training(self) -> Training | None:
        """The settings of the training within a query, if the acquisition function trains a learner of its own."""
        if not acquisition.side_outputs(self.strategy.needs):
            return None
        of = acquisition.registry.load(self.strategy.acquisition).side_training
        return self.row.training if of is None else of(self.strategy.checked_options)

    @property
    def network(self) -> str:
        """The network, the stored examples that it takes, and the precision."""
        shape = "x".join(map(str, self.size.shape))
        return f"{self.row.backbone.label}, {shape}, {self.study.compute.precision}"

    def step(self, training: Training, label: str) -> tuple[str, str]:
        """A step of training, of a recipe or an acquisition function with a label."""
        kind = modalities.registry.load(self.row.modality).augmentation
        defaults = kind().model_dump()
        changed = [f"{key}: {value}" for key, value in self.row.augmentation.items() if value != defaults[key]]
        how = ", ".join([f"{self.batch(training)} examples", training.optimizer, *changed])
        return self.network, f"step of {label} ({how})"

    def batch(self, training: Training) -> int:
        """Return the number of labelled examples in a step: a mini-batch, or all if there are never as many."""
        return min(training.batch_size, max(self.row.budgets[name].labels for name in self.study.run.budgets))

    @property
    def train(self) -> tuple[str, str]:
        """A step of the recipe."""
        return self.step(self.row.training, self.recipe.label)

    @property
    def side(self) -> tuple[str, str]:
        """A step of the acquisition function's own learner."""
        assert self.side_training is not None
        return self.step(self.side_training, self.strategy.label)

    @property
    def predict(self) -> tuple[str, str]:
        """The prediction for an example."""
        return self.network, f"predict with {self.recipe.label}"

    @property
    def represented(self) -> int | None:
        """How many numbers represent an example, if no model of the study makes the representation."""
        if not self.row.has_representation:
            return None
        return math.prod(self.shape) if self.row.features is None else width_of(Path(self.row.features))

    def needs(self, of: str) -> dict[str, Any]:
        """Return the needs of the strategy for the ``candidates``, the ``labeled`` examples or the whole ``pool``."""
        given = {
            need.replace("representation", "features"): argument
            for need, argument in self.strategy.needs.items()
            if need != "labeled:labels" and not (is_representation(need) and self.row.has_representation)
        }
        parted = {need: need.partition(":")[0] for need in given}
        if of == "candidates":
            return {need: argument for need, argument in given.items() if parted[need] not in ("labeled", "pool")}
        return {need.removeprefix(f"{of}:"): argument for need, argument in given.items() if parted[need] == of}

    def measuring(self, of: str) -> tuple[str, str]:
        """What the strategy needs for an example, and its score if each example has one."""
        return self.network, f"measure {of} for {self.strategy.label} with {self.recipe.label}"

    @property
    def choice(self) -> tuple[str, str]:
        """The choice of a set, divided by the candidates, and by the labelled examples with those to choose."""
        return self.network, f"choose by {self.strategy.label} with {self.recipe.label}"


def works(layout: Layout, sizes: Mapping[str, Size]) -> Iterator[Work]:
    """Yield the work of each data set and strategy."""
    study = layout.study
    for dataset, size in sizes.items():
        for name in study.run.strategies:
            yield Work(study, dataset, size, study.strategies[name])
