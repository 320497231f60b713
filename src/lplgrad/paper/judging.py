"""Judge claims by cases: ``texts.j2`` explains the verdicts to readers.

A claim names a range of effects. Each case (a strategy, a baseline, a budget, a data set, a number of labels) has an
interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lplgrad.analysis.inference import LEVEL, Estimate, estimate
from lplgrad.paper.claimed import Measured, labels_taken, values
from lplgrad.study.validation import Count, Name, Number, Settings, Title, parse, read_yaml

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
NOT_RUN, UNTESTED, NOT_PUBLISHED = "not run", "not tested", "not published"
# The share of cases that may contradict a claim about most of them.
EXCEPTIONS = 0.25
Source = Literal["published", "measured"]
NamesOrAll = Literal["all"] | list[Name]
Text = Annotated[str, Field(min_length=1)]


class Claim(Settings):
    """A row of ``paper/claims.yaml``, which explains the keys at its top."""

    id: Name
    section: Title
    says: Text
    untested: Text | None = None
    strategies: list[Name] = Field(default=[])
    baselines: Literal["others", "best", "none"] | list[Name] = "others"
    measure: Literal["accuracy", "train_seconds", "query_seconds", "labels_needed"] = "accuracy"
    budgets: NamesOrAll = "all"
    datasets: NamesOrAll = "all"
    at: Literal["queried", "first", "last", "first_half", "second_half", "fractions", "area"] | Count | list[Count] = (
        "queried"
    )
    above: Number | None = None
    below: Number | None = None
    unit: Literal["points", "percent"] = "points"
    over: Literal["every", "most", "mean"] = "every"
    table: Literal["accuracy", "ablation", "time", "none"] = "accuracy"
    reading: Text | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.untested is None:
            if not self.strategies:
                raise PydanticCustomError("claim", "a claim that is tested needs strategies")
            if self.above is None and self.below is None:
                raise PydanticCustomError("claim", "a claim that is tested needs above or below")
            if self.above is not None and self.below is not None and self.above >= self.below:
                raise PydanticCustomError("claim", "above must be less than below")
            if self.baselines == "best" and (self.over == "mean" or self.measure != "accuracy"):
                raise PydanticCustomError("claim", "baselines: best goes with accuracy, and not with over: mean")
        return self

    def judge(self, low: float, high: float) -> str:
        """Return the verdict of an interval on the claimed range."""
        above, below = self.bounds
        if math.isnan(low):
            return OPEN
        if above < low and high < below:
            return HOLDS
        return FAILS if high <= above or below <= low else OPEN

    @property
    def bounds(self) -> tuple[float, float]:
        """The claimed range."""
        return -math.inf if self.above is None else self.above, math.inf if self.below is None else self.below


class Claims(Settings):
    """The whole file.

    Attributes:
        labels: the paper's number of labels in the end, by budget and data set.
        claims: the rows.
    """

    labels: dict[Name, dict[Name, Count]]
    claims: list[Claim]

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [claim.id for claim in self.claims]
        for name in names:
            if names.count(name) > 1:
                raise PydanticCustomError("claim", "id {name} appears twice", {"name": name})
        return self


def read_claims(path: Path) -> Claims:
    """Read and check a file of claims."""
    return parse(Claims, read_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))


@dataclass(frozen=True)
class Case:
    """One comparison behind a claim."""

    strategy: str  # the two; the baseline is empty if the claim is about a value, not a difference
    baseline: str  # the two; the baseline is empty if the claim is about a value, not a difference
    budget: str  # where; the budget is empty if the paper does not name it, the data set in a mean
    dataset: str  # where; the budget is empty if the paper does not name it, the data set in a mean
    at: str  # where; the budget is empty if the paper does not name it, the data set in a mean
    absolute: Estimate  # the effect in points (or seconds, or labels), or the value
    relative: Estimate  # the effect in percent of the baseline
    seeds: int  # number of pairs, or of trials in the paper
    # the effect of every seed, absolute and relative; empty for the paper
    pairs: dict[int, tuple[float, float]] = field(default_factory=dict)
    # if the baseline is the best of several, the effects against each of them in the claim's unit
    rivals: tuple[Estimate, ...] = ()

    def effect(self, claim: Claim) -> Estimate:
        """Return the effect in the claim's unit."""
        return self.absolute if claim.unit == "points" else self.relative

    def interval(self, claim: Claim, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval of the effect in the claim's unit; NaN without an error.

        Which rival is truly the best is unknown. The effect against the best is the smallest of the effects against
        all. So it is at least the smallest low end, and at most the smallest high end if all of these hold at once
        (Bonferroni).
        """
        rivals = self.rivals or (self.effect(claim),)
        lows = [rival.interval(level)[0] for rival in rivals]
        highs = [rival.interval(_corrected(level, len(rivals)))[1] for rival in rivals]
        return (math.nan, math.nan) if math.isnan(sum(lows)) else (min(lows), min(highs))

    def p(self, claim: Claim) -> float:
        """Return the two-sided p of the effect against the nearest bound of the claimed range; NaN without an error.

        It is below 5 % if and only if the 95 % interval excludes that bound, which decides the case.
        """
        rivals = self.rivals or (self.effect(claim),)
        bounds = [bound for bound in claim.bounds if math.isfinite(bound)]
        return max(p_of_smallest([replace(one, value=one.value - bound) for one in rivals]) for bound in bounds)

    def support(self, claim: Claim) -> tuple[float, float]:
        """Return a key that sorts cases by how much they support a claim: first by evidence (from 0 against it over 1,
        unknown, to 2 for it), then by how far the effect lies within the claimed range."""
        value, (above, below), p = self.effect(claim).value, claim.bounds, self.p(claim)
        within = 0.0 if math.isnan(value) else min(value - above, below - value)
        return 1.0 if math.isnan(p) else p if within <= 0 else 2 - p, within

    @property
    def what(self) -> str:
        """The two, for people."""
        baseline = f"the best other ({self.baseline})" if self.rivals else self.baseline
        return f"{self.strategy} against {baseline}" if baseline else self.strategy

    @property
    def where(self) -> str:
        """The place, for people."""
        return ", ".join(filter(None, (self.dataset, self.budget, self.at)))


def p_of_smallest(effects: Sequence[Estimate]) -> float:
    """Return the two-sided p of the smallest of some true effects against 0; NaN if an error is unknown.

    It is positive if all are, and negative if one of them is (Bonferroni).
    """
    if any(math.isnan(effect.p) for effect in effects):
        return math.nan
    below = [effect.p for effect in effects if effect.value <= 0]
    return min(1.0, len(effects) * min(below)) if below else max(effect.p for effect in effects)


def _corrected(level: float, tests: int) -> float:
    """Return the level of each of several intervals that must hold at once (Bonferroni)."""
    return 1 - (1 - level) / tests


@dataclass(frozen=True)
class Finding:
    """The verdict of a source on a claim."""

    claim: Claim
    source: Source
    verdict: str  # one of the constants above
    cases: list[Case] = field(default_factory=list)  # those behind it
    # effect and interval of the case (or mean) with the most evidence against the claim; the interval in the claim's
    # unit
    absolute: float = math.nan
    # effect and interval of the case (or mean) with the most evidence against the claim; the interval in the claim's
    # unit
    relative: float = math.nan
    # effect and interval of the case (or mean) with the most evidence against the claim; the interval in the claim's
    # unit
    low: float = math.nan
    # effect and interval of the case (or mean) with the most evidence against the claim; the interval in the claim's
    # unit
    high: float = math.nan
    about: str = ""  # which that is, or why there is none
    seeds: int = 0  # of that effect
    rounding_decides: bool = False  # other numbers that are rounded to the paper's could give another verdict

    def counts(self) -> dict[str, int]:
        """Count the cases of each verdict."""
        verdicts = [self.claim.judge(*case.interval(self.claim)) for case in self.cases]
        return {name: verdicts.count(name) for name in (HOLDS, FAILS, OPEN)}


def judge(claim: Claim, source: Source, cases: list[Case]) -> Finding:
    """Judge a claim by the cases of a source. A claim about an average has a case for each pair of strategies: the mean
    over data sets, budgets and numbers of labels."""
    if claim.untested is not None:
        return Finding(claim, source, UNTESTED, about=claim.untested)
    if not cases:
        return Finding(claim, source, NOT_PUBLISHED if source == "published" else NOT_RUN)
    judged = _averages(cases) if claim.over == "mean" else cases
    known = [case for case in judged if not math.isnan(case.effect(claim).value)]
    worst = min(known or judged, key=lambda case: case.support(claim))
    effect = worst.absolute.value, worst.relative.value, *worst.interval(claim)
    about = ", ".join(filter(None, (worst.what, worst.where)))
    return Finding(claim, source, verdict(claim, judged), cases, *effect, about, worst.seeds)


def verdict(claim: Claim, cases: list[Case]) -> str:
    """Return the verdict over n cases of which k may be exceptions: none, or a quarter if the claim is about most.

    The claim says that at least n - k are within its range. It fails if more than k contradict it at a level corrected
    for n - k tests. It holds if at least n - k agree at a level corrected for k + 1 tests: a wrong verdict needs at
    least one of k + 1 wrong cases (the test of a partial conjunction, Benjamini and Heller 2008). Without exceptions,
    a contradiction has Bonferroni's correction, and agreement has none.
    """
    allowed = int(EXCEPTIONS * len(cases)) if claim.over == "most" else 0
    needed = len(cases) - allowed

    def count(wanted: str, tests: int) -> int:
        level = _corrected(LEVEL, tests)
        return sum(claim.judge(*case.interval(claim, level)) == wanted for case in cases)

    if count(FAILS, needed) > allowed:
        return FAILS
    return HOLDS if count(HOLDS, allowed + 1) >= needed else OPEN


def _averages(cases: list[Case]) -> list[Case]:
    """Average the cases of each pair of strategies."""
    by_pair: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        by_pair.setdefault((case.strategy, case.baseline), []).append(case)
    return [group[0] if len(group) == 1 else _average(group) for group in by_pair.values()]


def _average(cases: list[Case]) -> Case:
    """Average within each seed that all cases have.

    The paper's trials are not published, so how they vary together is unknown. The error of the mean is then taken as
    the mean of the errors, the largest that it can be.
    """
    at = f"the mean of {len(cases)} cases"
    place = (cases[0].strategy, cases[0].baseline, "", "")
    if not cases[0].pairs:
        means = (_mean_error([case.absolute for case in cases]), _mean_error([case.relative for case in cases]))
        return Case(*place, at, *means, cases[0].seeds)
    seeds = sorted(set.intersection(*(set(case.pairs) for case in cases)))
    at += "" if seeds else ", which no seed has all of"
    kinds = [[sum(case.pairs[seed][kind] for case in cases) / len(cases) for seed in seeds] for kind in (0, 1)]
    pairs = dict(zip(seeds, zip(*kinds, strict=True), strict=True))
    return Case(*place, at, estimate(kinds[0]), estimate(kinds[1]), len(seeds), pairs)


def _mean_error(effects: list[Estimate]) -> Estimate:
    value, error = (sum(getattr(one, name) for one in effects) / len(effects) for name in ("value", "error"))
    return Estimate(value, error, min(one.freedom for one in effects))


def from_measurements(claim: Claim, measured: Measured) -> list[Case]:
    """Return the cases of a claim that a study has run, with differences paired by seed."""
    cases = []
    for budget, dataset in measured.panels:
        if not (among(claim.budgets, budget) and among(claim.datasets, dataset)):
            continue
        by_strategy = _values(claim, measured, budget, dataset)
        points = list(dict.fromkeys(point for found in by_strategy.values() for point in found))
        for point in points:
            there = {name: found[point] for name, found in by_strategy.items() if point in found}
            means = {name: float(series.mean()) for name, series in there.items()}
            for strategy, baseline, rivals in comparisons(claim, means):
                case = Case(strategy, baseline, budget, dataset, point, *_NOTHING)
                case = _paired(case, there[strategy], there[baseline] if baseline else None)
                if case.seeds:
                    against = (_paired(case, there[strategy], there[rival]).effect(claim) for rival in rivals)
                    cases.append(replace(case, rivals=tuple(against)))
    return cases


_NOTHING = (Estimate(math.nan), Estimate(math.nan), 0)


def _values(claim: Claim, measured: Measured, budget: str, dataset: str) -> dict[str, dict[str, pd.Series[float]]]:
    """Return the values of all seeds, by strategy and then by the point that the claim is about."""
    if claim.measure == "labels_needed":
        return labels_taken(measured, budget, dataset)
    places = claim.at if isinstance(claim.at, list) else [claim.at]
    return {
        name: {
            point: series
            for at in places
            for point, series in values(measured, budget, dataset, name, claim.measure, at).items()
        }
        for name in measured.names
    }


def _paired(case: Case, one: pd.Series[float], other: pd.Series[float] | None) -> Case:
    seeds = [seed for seed in one.index if other is None or seed in other.index]
    first = one.loc[seeds]
    absolute = first if other is None else first - other.loc[seeds]
    # There is no difference relative to no time at all.
    relative = absolute * math.nan if other is None else 100 * absolute / other.loc[seeds].where(other.loc[seeds] != 0)
    pairs = dict(zip(seeds, zip(absolute.tolist(), relative.tolist(), strict=True), strict=True))
    return replace(case, absolute=estimate(absolute), relative=estimate(relative), seeds=len(seeds), pairs=pairs)


def among(names: NamesOrAll, name: str) -> bool:
    """Return whether a claim is about a budget or data set."""
    return names == "all" or name in names


def comparisons(claim: Claim, means: dict[str, float]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield strategy and baseline of every comparison of a claim, given all means; the baseline is empty for a value.
    Third, if the baseline is the best of several, all of these."""
    for strategy in claim.strategies:
        others = {name: mean for name, mean in means.items() if name != strategy}
        if strategy not in means:
            continue
        if claim.baselines == "none":
            yield strategy, "", ()
        elif claim.baselines == "best":
            yield from ((strategy, max(others, key=others.__getitem__), tuple(others)),) if others else ()
        else:
            wanted = others if claim.baselines == "others" else claim.baselines
            yield from ((strategy, name, ()) for name in wanted if name in others)


def verdicts(findings: list[Finding]) -> pd.DataFrame:
    """Return one row for each claim and source."""
    rows = [
        {
            "claim": found.claim.id, "section": found.claim.section, "source": found.source, "verdict": found.verdict,
            "cases": len(found.cases), **found.counts(), "effect": found.absolute, "effect_percent": found.relative,
            "low": found.low, "high": found.high, "unit": found.claim.unit, "seeds": found.seeds, "about": found.about,
            "rounding_decides": found.rounding_decides,
        }
        for found in findings
    ]  # fmt: skip
    return pd.DataFrame(rows)


def cells(findings: list[Finding]) -> pd.DataFrame:
    """Return one row for each case behind each claim; ``p`` is against the nearest bound of the claim, not 0."""
    return pd.DataFrame([_cell(found, case) for found in findings for case in found.cases])


def _cell(found: Finding, case: Case) -> dict[str, Any]:
    low, high = case.interval(found.claim)
    return {
        "claim": found.claim.id, "source": found.source, "strategy": case.strategy, "baseline": case.baseline,
        "budget": case.budget, "dataset": case.dataset, "at": case.at, "seeds": case.seeds,
        "effect": case.absolute.value, "effect_percent": case.relative.value, "low": low, "high": high,
        "unit": found.claim.unit, "p": case.p(found.claim), "verdict": found.claim.judge(low, high),
    }  # fmt: skip
