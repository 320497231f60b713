"""The settings of a single job, which its option ``--settings`` takes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lplgrad import backbones, datasets
from lplgrad.machine.registry import Registry
from lplgrad.study.budgets import AcquisitionName
from lplgrad.study.settings import (
    BackboneRow,
    Compute,
    Normalization,
    Oracle,
    RecipeRow,
    SourceName,
    Training,
    unoffered,
    write_out_augmentation,
)
from lplgrad.study.validation import Count, InputFile, Row, Settings, wrong


class TrainingJob(Settings):
    """The settings of one ``lplgrad train``."""

    backbone: BackboneRow = BackboneRow(name="resnet18")
    training: Training = Training()
    augmentation: dict[str, Any] = Field(default={})
    normalization: Normalization | None = None
    recipe: RecipeRow = RecipeRow(trains="plain")
    compute: Compute = Compute()

    @property
    def modality(self) -> str:
        """The modality of the examples that the backbone takes."""
        return backbones.registry.load(self.backbone.name).modality

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        write_out_augmentation(self, self.modality)
        if problem := unoffered(self.backbone, self.recipe, self.recipe.trains):
            raise wrong(problem, "recipe")
        return self


class ObservationJob(Settings):
    """The settings of one ``lplgrad observe``; see ``ModelFigures``."""

    unlabeled_images: Count = 10_000
    embedded_images: Annotated[int, Field(ge=2)] = 2_000
    compute: Compute = Compute()


class SourceJob(Row):
    """The settings of one ``lplgrad prepare``: a source, and its options beside it.

    Attributes:
        source: a module of ``lplgrad.datasets``.
        oracle: see ``Dataset``.
    """

    source: SourceName
    oracle: Oracle = "simulated"
    function_key: ClassVar[str] = "source"
    registry: ClassVar[Registry[Any]] = datasets.registry


class _WrittenIfSet(Settings):
    """Settings of which only those that are set are written, so that a new key changes no job without it."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if value is not None}


class QueryJob(_WrittenIfSet):
    """The settings of one ``lplgrad query``.

    Attributes:
        features: see ``Dataset``. None if the acquisition function needs no representation, or no file holds it.
        training: of the round, if the acquisition function trains a learner of its own in the same way.
    """

    acquisition: AcquisitionName
    options: dict[str, Any] = Field(default={})
    query_size: Count
    candidates: Count | Literal["all"] = "all"
    query_transform: Literal["test", "train"] = "test"
    augmentation: dict[str, Any] = Field(default={})  # whose keys the modality of the data defines
    features: InputFile | None = None
    training: Training | None = None
    compute: Compute = Compute()


class StartJob(_WrittenIfSet):
    """The settings of one ``lplgrad start`` whose examples are chosen by an acquisition function."""

    acquisition: AcquisitionName
    options: dict[str, Any] = Field(default={})
    features: InputFile | None = None
    compute: Compute = Compute()
