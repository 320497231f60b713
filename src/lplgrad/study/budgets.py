"""Budgets: how many labels a trial buys in each round, and how the first ones are found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lplgrad.acquisition import registry as acquisitions
from lplgrad.machine.registry import Registry
from lplgrad.study.validation import Count, NoOptions, Number, Row, Settings, known, wrong

AcquisitionName = Annotated[str, known("acquisition", acquisitions)]
REPRESENTATION = frozenset({"representation", "labeled:representation"})  # what can be needed without a model


class Start(Row):
    """The labels of round 1; further keys are the options of the acquisition function that chooses.

    Attributes:
        size: how many are labelled; None for as many as a query buys.
        draw: ``uniform``, or ``stratified``: with the classes in proportion to the pool. To simulate the latter, the
            oracle is asked for the classes of the whole pool, which nobody knows before labelling.
        by: an acquisition function that chooses them from a representation of the pool (see ``Dataset.features``). None
            for a random draw.
    """

    size: Count | None = None
    draw: Literal["uniform", "stratified"] = "uniform"
    by: AcquisitionName | None = None
    function_key: ClassVar[str] = "by"
    registry: ClassVar[Registry[Any]] = acquisitions

    @classmethod
    def option_keys(cls, values: Mapping[str, Any]) -> set[str] | None:
        """The options of the acquisition function, if one chooses."""
        return set() if values.get("by") is None else super().option_keys(values)

    @property
    def checked_options(self) -> Settings:
        """The same as the acquisition function takes them."""
        return NoOptions() if self.by is None else super().checked_options

    @model_validator(mode="after")
    def _needs_no_model(self) -> Self:
        if self.by is None:
            return self
        if self.draw != "uniform":
            raise wrong(f"draw: {self.draw} has no effect, because {self.by!r} chooses; remove one of the two", "by")
        if problem := start_problem(self.by, self.checked_options):
            raise wrong(problem, "by")
        return self


def start_problem(name: str, options: Settings) -> str:
    """Say why an acquisition function cannot choose before there is a model; empty if it can."""
    needs = set(acquisitions.load(name).needs(options))
    if not needs:
        return f"{name!r} compares no examples; leave it out, and labels are drawn at random"
    if needs <= REPRESENTATION:
        return ""
    loaded = {one: acquisitions.load(one) for one in acquisitions.names()}
    fit = [one for one, other in loaded.items() if REPRESENTATION.issuperset(other.needs(other.options()) or [""])]
    return (
        f"{name!r} needs {min(needs - REPRESENTATION)}, and before round 1 there is no model; choose with "
        f"{' or '.join(fit)}"
    )


class Budget(Settings):
    """An annotation budget (paper, Table II).

    Attributes:
        query_size: b, labels bought by a query.
        start: the labels of round 1.
        candidates: S, size of the random subset of the unlabelled pool that is scored, or ``all``.
        labels: A, labels at the end: those of round 1 and ``query_size`` for every further round.
        target_accuracy: test accuracy (a fraction) at which a trial stops before its budget is spent; None for never.
    """

    query_size: Count
    start: Start = Start()
    candidates: Count | Literal["all"] = "all"
    labels: Count
    target_accuracy: Annotated[Number, Field(gt=0, le=1)] | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return 1 + (self.labels - self.bought(1)) // self.query_size

    def bought(self, number: int) -> int:
        """Return how many labels have been bought when round ``number`` trains, from 1, if the trial has not stopped.

        How many of them are known, and so trained on, is in the round's ``metrics.json``.
        """
        return (self.start.size or self.query_size) + (number - 1) * self.query_size

    @property
    def subset(self) -> int | None:
        """Size of the candidate subset, None for the whole pool."""
        return None if self.candidates == "all" else self.candidates

    def labels_problem(self) -> str:
        """Say why whole rounds do not add up to ``labels``; empty if they do. A person may label any number."""
        last = max(1, self.rounds)
        if self.bought(last) == self.labels:
            return ""
        return (
            f"labels: {self.labels} does not fit: round 1 has {self.bought(1)}, and each further round "
            f"{self.query_size} more (query_size); the nearest that fit are {self.bought(last)} and "
            f"{self.bought(last + 1)}"
        )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.subset is not None and self.subset < self.query_size:
            sizes = f"candidates: {self.subset} is smaller than query_size: {self.query_size}"
            raise wrong(f"{sizes}, so no query could be answered")
        return self


class ReachedBudget(Budget):
    """The budget of a person, as far as it has gone: a person may label any number of images for a round.

    Attributes:
        counts: labels that were bought when each round trained, up to the newest round.
    """

    counts: list[int] = Field(exclude=True)

    @property
    def rounds(self) -> int:
        """Number of rounds so far, the newest one included."""
        return len(self.counts)

    def bought(self, number: int) -> int:
        """Return how many labels were bought when round ``number`` trained, from 1."""
        return self.counts[number - 1]


def pool_problem(budget: Budget, pool: int) -> tuple[str, str] | None:
    """The key and reason why a budget cannot be spent on a training pool of ``pool`` examples, if it cannot."""
    if budget.labels > pool:
        return "labels", f"{budget.labels} is more than the {pool} examples of the training pool"
    left = pool - budget.bought(budget.rounds - 1)
    if budget.rounds > 1 and budget.subset is not None and budget.subset > left:
        return "candidates", (
            f"{budget.subset} is more than the {left} examples that the last query finds unlabelled, of {pool} in the "
            "pool; lower it, or set it to all"
        )
    return None
