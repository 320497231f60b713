"""The configuration: its keys, their types and defaults, and the checks that no type can express.

Dictionaries define (recipes, strategies, data sets), the lists under ``run`` select. The settings of a single job are
made of the same parts, see ``jobs``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from lplgrad import backbones, datasets, modalities, recipes
from lplgrad.acquisition import Acquisition, unmet
from lplgrad.acquisition import registry as acquisitions
from lplgrad.machine.errors import nearest
from lplgrad.machine.registry import Registry
from lplgrad.study.budgets import AcquisitionName, Budget, pool_problem
from lplgrad.study.titles import dataset_title, strategy_title
from lplgrad.study.validation import (
    Count,
    InputFile,
    Name,
    Number,
    Row,
    Seed,
    Settings,
    Title,
    first_problem,
    from_here,
    known,
    refuse_changed,
    wrong,
)


class BackboneRow(Row):
    """The network; further keys are the backbone's options.

    Attributes:
        name: a module of ``lplgrad.backbones``.
    """

    name: Annotated[str, known("backbone", backbones.registry)]
    function_key: ClassVar[str] = "name"
    registry: ClassVar[Registry[Any]] = backbones.registry


class Training(Settings):
    """Training over one round's labelled set.

    Attributes:
        epochs: passes over the labelled set, in every round.
        batch_size: examples in a mini-batch; the last one of an epoch may be smaller.
        learning_rate: at the start of every round, after the warm-up.
        optimizer: ``sgd``, or ``adamw`` (Adam with decoupled weight decay).
        momentum: of SGD.
        nesterov: whether SGD's momentum is Nesterov's.
        weight_decay: of SGD (L2 penalty) or AdamW.
        schedule: ``step`` multiplies the learning rate at milestones, ``cosine`` lowers it to 0 along half a cosine,
            and ``constant`` keeps it.
        milestones: epochs, counted from 0, from which on ``step`` multiplies the learning rate by ``decay`` once more.
        decay: the factor at a milestone.
        warmup_epochs: epochs in which the learning rate grows linearly from 0 to that of the schedule.
    """

    epochs: Count = 200
    batch_size: Count = 128
    learning_rate: Annotated[Number, Field(gt=0)] = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default=[160])
    decay: Annotated[Number, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        idle = {"optimizer": ("sgd", ["momentum", "nesterov"]), "schedule": ("step", ["milestones", "decay"])}
        for key, (needed, names) in idle.items():
            for name in names if getattr(self, key) != needed else []:
                if getattr(self, name) not in (type(self).model_fields[name].default, []):
                    default = [] if name == "milestones" else type(self).model_fields[name].default
                    hint = f"remove it, or set {name}: {default}"
                    raise wrong(f"{name} has no effect with {key}: {getattr(self, key)}; {hint}")
        if self.nesterov and not self.momentum:
            raise wrong("nesterov needs a momentum above 0")
        if self.warmup_epochs >= self.epochs:
            raise wrong(f"warmup_epochs: {self.warmup_epochs} must be fewer than epochs: {self.epochs}")
        return self

    @model_validator(mode="after")
    def _milestones_are_reached(self) -> Self:
        if self.schedule != "step":
            return self
        if self.milestones != sorted(set(self.milestones)) or any(m >= self.epochs for m in self.milestones):
            limit = f"must rise and lie before the last epoch (epochs: {self.epochs})"
            raise wrong(f"milestones {self.milestones} {limit}; [] for none")
        return self


def write_out_augmentation(settings: Settings, modality: str) -> None:
    """Check the settings of an augmentation, whose keys the modality defines, and write out its defaults."""
    kind: type[Settings] = modalities.registry.load(modality).augmentation
    try:
        checked = kind.model_validate(settings.__dict__["augmentation"])
    except ValidationError as error:
        key, problem = first_problem(error)
        raise wrong(problem, f"augmentation.{key}".rstrip(".")) from None
    settings.__dict__["augmentation"] = checked.model_dump(by_alias=True)


class Normalization(Settings):
    """What is subtracted from the examples, and what they are divided by; of images, once scaled to [0, 1].

    Attributes:
        mean: per channel.
        std: standard deviation per channel.
    """

    mean: Annotated[list[Number], Field(min_length=1)]
    std: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_channels(self) -> Self:
        if len(self.mean) != len(self.std):
            raise wrong("mean and std must have one value per channel each")
        return self


def unoffered(backbone: BackboneRow, recipe: RecipeRow, name: str) -> str:
    """Say what a recipe of some name needs and a backbone does not offer; empty if there is nothing."""
    offers = backbones.registry.load(backbone.name).offers(backbone.checked_options)
    wanted = sorted(recipes.registry.load(recipe.trains).wants(recipe.checked_options) - offers)
    return f"recipe {name!r} needs {wanted[0]}, which backbone {backbone.name!r} does not offer" if wanted else ""


def _auxiliary_line(value: object) -> str:
    return f"replaced by trains: {'joint' if value else 'plain'}"


class RecipeRow(Row):
    """How a strategy trains; further keys are the recipe's options.

    Attributes:
        trains: a module of ``lplgrad.recipes``.
        init: ``warm`` trains on from the round before, with new optimisers; ``fresh`` starts every round anew.
    """

    trains: Annotated[str, known("recipe", recipes.registry)]
    init: Literal["warm", "fresh"] = "warm"
    function_key: ClassVar[str] = "trains"
    registry: ClassVar[Registry[Any]] = recipes.registry
    replaced: ClassVar[dict[str, Callable[[Any], str]]] = {"auxiliary": _auxiliary_line}

    @property
    def reads_previous(self) -> bool:
        """Whether each round but the first reads the checkpoint of the round before."""
        return self.init == "warm" or recipes.registry.load(self.trains).reads_previous(self.checked_options)


class Compute(Settings):
    """The machine's part. All but ``device`` change the last bits of a result, and so belong to the study.

    Attributes:
        device: ``auto`` takes a GPU where there is one.
        threads: of torch in a job on the CPU. One thread a job keeps many jobs from fighting over the cores.
        precision: of training; queries and evaluation are always float32. ``tf32`` rounds the operands of convolutions
            to 10 bits of mantissa on a GPU, as PyTorch does by default, and is float32 on a CPU. ``bfloat16`` trains
            under autocast: the operands of convolutions and matrix products have 7 bits, while sums, weights, batch
            statistics, losses and the optimiser stay float32.
        deterministic: refuse operations that may differ from run to run on the same machine.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    deterministic: bool = True


class StudyCompute(Compute):
    """The same with what changes no result, and so reruns nothing.

    Attributes:
        device, threads, precision, deterministic: see Compute.
        jobs_per_gpu: how many jobs may share a GPU on this machine: with 2, four cards are ``--resources gpu=8``.
        progress_seconds: between two notes of how far a training got, to go on from after an interruption; longer,
            where writing takes more than a fiftieth of the time. 0 notes every epoch.
    """

    jobs_per_gpu: Count = 1
    progress_seconds: Annotated[Number, Field(ge=0)] = 20


ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s/][^\x00-\x1f\x7f/]*$")]
Oracle = Literal["simulated", "person"]
SourceName = Annotated[str, known("source", datasets.registry)]


class Strategy(Row):
    """A training recipe and an acquisition function; further keys are the acquisition function's options.

    Attributes:
        recipe: how it trains, a name under ``recipes``.
        acquisition: how it queries, a module of ``lplgrad.acquisition``.
        title: its name in tables and figures; None for its name in the configuration. No two that run may look alike.
    """

    recipe: str
    title: Title | None = None
    acquisition: AcquisitionName
    function_key: ClassVar[str] = "acquisition"
    registry: ClassVar[Registry[Any]] = acquisitions

    @property
    def needs(self) -> Mapping[str, Any]:
        """What the acquisition function needs, with the argument of each need; a query without needs reads no model."""
        function: Acquisition = self.registry.load(self.acquisition)
        return function.needs(self.checked_options)

    @property
    def requires(self) -> list[str]:
        """What the recipe and the query must offer: the needs, and what the acquisition function wants besides."""
        function: Acquisition = self.registry.load(self.acquisition)
        return function.requires(self.checked_options)

    def options_that_fit(self, offered: Collection[str]) -> list[str]:
        """Return values of single options, as ``key: value``, with which nothing is needed that is not offered."""
        function: Acquisition = self.registry.load(self.acquisition)
        found = []
        for name, field in function.options.model_fields.items():
            for value in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
                other = self.checked_options.model_copy(update={name: value})
                if not unmet(function.requires(other), offered):
                    found.append(f"{name}: {value}")
        return found

    @property
    def trains_as_round(self) -> bool:
        """Whether the query trains a learner of its own with the settings of the round's training."""
        function: Acquisition = self.registry.load(self.acquisition)
        return function.trains_as_round(self.checked_options)


def _model_line(value: object) -> str:
    known = value if isinstance(value, Mapping) else {}
    row = {"name": "resnet18", **known}
    return f"replaced by backbone: {{{', '.join(f'{key}: {each}' for key, each in row.items())}}}"


def _once(values: list[Any]) -> list[Any]:
    """Refuse a list that names something twice."""
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise wrong(f"{', '.join(repeated)} is listed twice")
    return values


class Dataset(Row):
    """A data set: where its examples come from and how models are trained on it; further keys are the source's options.

    Attributes:
        source: the loader, a module of ``lplgrad.datasets``.
        title: its name in tables and figures; None for its name in the configuration. No two that run may look alike.
        backbone, training: see there.
        augmentation: what is done to training examples at random; the modality of the source defines the keys.
        normalization: None for the mean and standard deviation of the data set's own training pool.
        query_transform: candidates are scored without (``test``) or with (``train``) augmentation.
        features: a file with a representation of the training pool (see docs/representations.md), for acquisition
            functions that need one. None for the examples themselves if they are vectors; otherwise queries take the
            features of the round's own model, and titles say so.
        oracle: who labels. ``simulated`` looks the labels up; ``person`` waits for a person (docs/labeling.md).
        classes: the classes that a person may give, also those without an image so far. None for the folders in
            ``labeled/``.
        budgets: annotation budgets by name.
    """

    source: SourceName
    title: Title | None = None
    backbone: BackboneRow = BackboneRow(name="resnet18")
    training: Training = Training()
    augmentation: dict[str, Any] = Field(default={})
    normalization: Normalization | None = None
    query_transform: Literal["test", "train"] = "test"
    features: InputFile | None = None
    oracle: Oracle = "simulated"
    classes: Annotated[list[ClassName], Field(min_length=2), AfterValidator(_once)] | None = None
    budgets: Annotated[dict[Name, Budget], Field(min_length=1)]
    function_key: ClassVar[str] = "source"
    registry: ClassVar[Registry[Any]] = datasets.registry
    replaced: ClassVar[dict[str, Callable[[Any], str]]] = {"model": _model_line}

    @property
    def modality(self) -> str:
        """The modality of the examples."""
        found: str = datasets.registry.load(self.source).modality
        return found

    @property
    def has_representation(self) -> bool:
        """Whether there is a representation of the pool that does not depend on a model of this study."""
        return self.features is not None or modalities.registry.load(self.modality).embedded

    @model_validator(mode="after")
    def _augmentation_fits(self) -> Self:
        write_out_augmentation(self, self.modality)
        return self

    @model_validator(mode="after")
    def _backbone_fits(self) -> Self:
        takes = backbones.registry.load(self.backbone.name).modality
        if takes != self.modality:
            raise wrong(
                f"{self.backbone.name!r} takes examples of the modality {takes!r}, but those of source {self.source!r} "
                f"are of {self.modality!r}",
                "backbone.name",
            )
        return self

    @model_validator(mode="after")
    def _starts_can_be_chosen(self) -> Self:
        for name, budget in self.budgets.items():
            if budget.start.by is not None and not self.has_representation:
                raise wrong(
                    f"{budget.start.by!r} needs a representation of the pool; name its file as features (see "
                    "docs/representations.md), or remove by to draw at random",
                    f"budgets.{name}.start.by",
                )
        return self

    @model_validator(mode="after")
    def _oracle_fits(self) -> Self:
        if self.oracle == "simulated":
            refuse_changed(self, "oracle: simulated", "classes")
            for name, budget in self.budgets.items():
                if problem := budget.labels_problem():
                    raise wrong(problem, f"budgets.{name}")
            return self
        known = [name for name in datasets.registry.names() if datasets.registry.load(name).listing is not None]
        if self.source not in known:
            raise wrong(
                f"source {self.source!r} has no images without labels; a person labels {', '.join(known)}", "oracle"
            )
        refuse_changed(self, "oracle: person", "features")
        for name, budget in self.budgets.items():
            for key in ("start", "target_accuracy"):
                if getattr(budget, key) != type(budget).model_fields[key].default:
                    raise wrong(f"{key} has no effect with oracle: person; remove it", f"budgets.{name}")
        return self

    @model_serializer(mode="wrap")
    def _without_the_usual_oracle(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing about a simulated study, as in the files of studies older than these keys."""
        values: dict[str, Any] = write(self)
        if self.oracle == "simulated":
            values.pop("oracle", None)
        if self.classes is None:
            values.pop("classes", None)
        return values

    @model_validator(mode="after")
    def _budgets_fit_the_pool(self) -> Self:
        pool = datasets.registry.load(self.source).pool_size(self.checked_options)
        for name, budget in self.budgets.items():
            if pool is not None and (problem := pool_problem(budget, pool)):
                raise wrong(problem[1], f"budgets.{name}.{problem[0]}")
        return self


class Run(Settings):
    """What a study runs: every combination of these.

    Attributes:
        budgets: names of annotation budgets, which every data set that is run defines.
        datasets: names under ``datasets``.
        strategies: names under ``strategies``.
        seeds: of the trials; the strategies of one seed are paired.
    """

    budgets: Annotated[list[str], Field(min_length=1)]
    datasets: Annotated[list[str], Field(min_length=1)]
    strategies: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]

    _listed_once = field_validator("budgets", "datasets", "strategies", "seeds")(_once)


class ModelFigures(Settings):
    """Figures of single models (paper, figures 6 to 8), for the trials named here as far as the study runs them.

    The models that they need are kept.

    Attributes:
        budgets, datasets, strategies: names of those that are shown.
        seed: of the trial that is shown; None for the study's first.
        rounds: after which the model is shown.
        unlabeled_images: the number of unlabelled examples in the figure of the model's confidence.
        embedded_images: how many test examples are embedded by t-SNE and have their losses compared with scores. The
            seed alone draws these and the unlabelled examples, so all rounds show the same test examples.
    """

    budgets: list[str] = Field(default=[])
    datasets: list[str] = Field(default=[])
    strategies: list[str] = Field(default=[])
    seed: Seed | None = None
    rounds: list[Count] = Field(default=[])
    unlabeled_images: Count = 10_000
    embedded_images: Annotated[int, Field(ge=2)] = 2_000


class Study(Settings):
    """A whole study, as its configuration files describe it.

    Attributes:
        study: its name; results go to ``results/<study>/``.
        title: one line for tables, figures and the report.
        data_dir: where prepared data sets are kept, and where downloads go.
        run: what is run.
        recipes, strategies, datasets: what is defined, by name.
        compute: the machine's part.
        model_figures: single models that are looked into.
        highlight: names of strategies that figures show in colour while the others are grey, as far as the study runs
            them; empty for all in colour. A change redraws figures and reruns nothing else, so ``study.yaml`` of a
            study that Snakemake runs does not record it.
        keep_checkpoints: keep the model of every round (45 MB each for ResNet-18), not only of the first and last. A
            finished study trains missing ones again; if set back to false, the next run deletes them.
    """

    study: Name
    title: Title
    data_dir: Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f{}]*$"), AfterValidator(from_here)] = "data"
    run: Run
    recipes: Annotated[dict[Name, RecipeRow], Field(min_length=1)]
    strategies: Annotated[dict[Name, Strategy], Field(min_length=1)]
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    compute: StudyCompute = StudyCompute()
    model_figures: ModelFigures = ModelFigures()
    highlight: Annotated[list[str], AfterValidator(_once)] = Field(default=[])
    keep_checkpoints: bool = False

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an empty ``highlight``, as in the files of studies that are older than this key."""
        values: dict[str, Any] = write(self)
        if not self.highlight:
            values.pop("highlight", None)
        return values

    @property
    def person(self) -> str | None:
        """The data set that a person labels, if the study runs one."""
        asked = (name for name in self.run.datasets if name in self.datasets)
        return next((name for name in asked if self.datasets[name].oracle == "person"), None)

    @model_validator(mode="after")
    def _one_list_waits(self) -> Self:
        for key in ("budgets", "datasets", "strategies", "seeds") if self.person else ():
            if len(getattr(self.run, key)) > 1:
                raise wrong(
                    f"data set {self.person!r} is labelled by a person, and {len(getattr(self.run, key))} {key} would "
                    "make several lists wait; name one",
                    f"run.{key}",
                )
        return self

    @model_validator(mode="after")
    def _references_resolve(self) -> Self:
        for key, problem in [*self._broken_references(), *self._confusing_titles()]:
            raise wrong(problem, key)
        return self

    def _broken_references(self) -> Iterable[tuple[str, str]]:
        for name, strategy in self.strategies.items():
            if strategy.recipe not in self.recipes:
                hint = nearest(strategy.recipe, self.recipes)
                yield f"strategies.{name}.recipe", f"unknown recipe {strategy.recipe!r} ({hint})"
        for name, dataset in product(self.run.strategies, self.run.datasets):
            known, row = self.strategies.get(name), self.datasets.get(dataset)
            problem = self._unmet(known, row) if known and row and known.recipe in self.recipes else ""
            if problem:
                yield f"strategies.{name}", f"on data set {dataset!r}: {problem}"
        for kind, defined in (("strategies", self.strategies), ("datasets", self.datasets)):
            for where, part in (("run", self.run), ("model_figures", self.model_figures)):
                for name in getattr(part, kind):
                    if name not in defined:
                        yield f"{where}.{kind}", f"{name!r} is not defined under {kind} ({nearest(name, defined)})"
        for name in self.highlight:
            if name not in self.strategies:
                yield "highlight", f"{name!r} is not defined under strategies ({nearest(name, self.strategies)})"
        budgets = {budget for row in self.datasets.values() for budget in row.budgets}
        for name in self.model_figures.budgets:
            if name not in budgets:
                yield "model_figures.budgets", f"no data set has a budget {name!r} ({nearest(name, budgets)})"
        for name, budget in product(self.run.datasets, self.run.budgets):
            if name in self.datasets and budget not in self.datasets[name].budgets:
                hint = nearest(budget, self.datasets[name].budgets)
                yield "run.budgets", f"data set {name!r} has no budget {budget!r} ({hint})"

    def _unmet(self, strategy: Strategy, dataset: Dataset) -> str:
        """What a strategy needs and its recipe or a data set's backbone does not offer; empty if there is nothing."""
        backbone = backbones.registry.load(dataset.backbone.name).offers(dataset.backbone.checked_options)
        recipe = self.recipes[strategy.recipe]
        kind, options = recipes.registry.load(recipe.trains), recipe.checked_options
        if problem := unoffered(dataset.backbone, recipe, strategy.recipe):
            return problem
        function = strategy.registry.load(strategy.acquisition)
        if function.modality not in (None, dataset.modality):
            return f"acquisition {strategy.acquisition!r} takes examples of the modality {function.modality!r} only"
        offered = kind.offered(options, backbone)
        for need in unmet(strategy.requires, offered):
            others = [
                name
                for name, other in ((name, recipes.registry.load(name)) for name in recipes.registry.names())
                if other.wants(other.options()) <= backbone
                and not unmet([need], other.offered(other.options(), backbone))
            ]
            ways = [f"with trains: {' or '.join(others)} it does"] if others else []
            ways += [f"with {option} it is not needed" for option in strategy.options_that_fit(offered)]
            hint = ", and ".join(ways) or "with the options of this backbone no recipe does"
            return (
                f"acquisition {strategy.acquisition!r} needs {need}, which recipe {strategy.recipe!r} (trains: "
                f"{recipe.trains}) does not offer; {hint}"
            )
        return ""

    def _confusing_titles(self) -> Iterable[tuple[str, str]]:
        """Titles that a reader could not tell apart, or could not see at all."""
        if not self.title.strip():
            yield "title", "is blank; give the study a title that can be read"
        for kind, title in (("strategies", strategy_title), ("datasets", dataset_title)):
            rows, seen = getattr(self, kind), dict[str, str]()
            for name in getattr(self.run, kind):
                if name not in rows:
                    continue
                shown = title(self, name)
                if not shown:
                    yield f"{kind}.{name}.title", "is blank; write one that can be read, or leave the key out"
                other = seen.setdefault(unicodedata.normalize("NFKC", shown).casefold(), name)
                if other != name:
                    keys = [f"{kind}.{one}" + (".title" if rows[one].title else "") for one in (name, other)]
                    yield (
                        keys[0],
                        f"figures and tables would call it {shown!r}, and {keys[1]} {title(self, other)!r}; give "
                        "the two titles that differ by more than upper case and white space",
                    )


class StudyFile(Settings):
    """What stands in ``results/<study>/study.yaml``.

    Attributes:
        study: the whole configuration.
        unavailable: the data sets that could not be had when it ran, and why.
    """

    study: Study
    unavailable: dict[str, str] = Field(default={})
