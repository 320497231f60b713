"""The paper's claims, as data, held against its own numbers and against a study's measurements.

A claim names a range of effects. Every case (a strategy, a baseline, a budget, a data set, a number of labels) gives an
interval. The claim holds in a case whose 95 % interval lies within the range, does not where it lies outside, and
cannot be told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lplgrad.paper import TRIALS, published
from lplgrad.statistics.claimed import Measured, shown_fraction, values
from lplgrad.statistics.inference import ALPHA, LEVEL, Estimate, estimate, holm, welch
from lplgrad.validation import Count, Name, Number, Settings, Title, parse, read_yaml

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
NOT_RUN, UNTESTED, NOT_PUBLISHED = "not run", "not tested", "not published"
Source = Literal["published", "measured"]
NamesOrAll = Literal["all"] | list[Name]
Text = Annotated[str, Field(min_length=1)]


class Claim(Settings):
    """A row of ``paper/claims.yaml``; its keys are explained at the top of that file."""

    id: Name
    section: Title
    says: Text
    untested: Text | None = None
    strategies: list[Name] = Field(default=[])
    baselines: Literal["others", "best", "none"] | list[Name] = "others"
    measure: Literal["accuracy", "train_seconds", "query_seconds"] = "accuracy"
    budgets: NamesOrAll = "all"
    datasets: NamesOrAll = "all"
    at: Literal["queried", "first", "last", "first_half", "second_half", "fractions", "area"] | Count = "queried"
    above: Number | None = None
    below: Number | None = None
    unit: Literal["points", "percent"] = "points"
    over: Literal["every", "mean"] = "every"
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
        return self

    def judge(self, low: float, high: float) -> str:
        """What an interval says of the claimed range."""
        above, below = _bounds(self)
        if math.isnan(low):
            return OPEN
        if above < low and high < below:
            return HOLDS
        return FAILS if high <= above or below <= low else OPEN


def _bounds(claim: Claim) -> tuple[float, float]:
    return -math.inf if claim.above is None else claim.above, math.inf if claim.below is None else claim.below


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
                raise PydanticCustomError("claim", "id {name} stands twice", {"name": name})
        return self


def read_claims(path: Path) -> Claims:
    """Read a file of claims.

    Raises:
        UserError: the file, the key, and what is wrong with it.
    """
    return parse(Claims, read_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))


@dataclass(frozen=True)
class Case:
    """One comparison behind a claim.

    Attributes:
        strategy, baseline: the two; no baseline for a value itself.
        budget, dataset, at: where; no budget where the paper does not say which.
        absolute: the effect in points (or seconds); of a value itself the value.
        relative: the effect in percent of the baseline.
        seeds: number of pairs, or of trials in the paper.
        pairs: the effect of every seed in the claim's unit; empty for the paper.
    """

    strategy: str
    baseline: str
    budget: str
    dataset: str
    at: str
    absolute: Estimate
    relative: Estimate
    seeds: int
    pairs: dict[int, float] = field(default_factory=dict)

    def effect(self, claim: Claim) -> Estimate:
        """The effect in the claim's unit."""
        return self.absolute if claim.unit == "points" else self.relative


@dataclass(frozen=True)
class Finding:
    """What a source says of a claim.

    Attributes:
        verdict: one of the constants above.
        cases: those behind it, with the interval and verdict of each.
        deciding: effect and interval that the verdict rests on, in the claim's unit, and the same effect in the other:
            of the mean, or of the case that speaks most against the claim.
        about: which case that is, or why there is none.
        seeds: of the deciding effect.
    """

    claim: Claim
    source: Source
    verdict: str
    cases: list[Case] = field(default_factory=list)
    absolute: float = math.nan
    relative: float = math.nan
    low: float = math.nan
    high: float = math.nan
    about: str = ""
    seeds: int = 0

    def counts(self) -> dict[str, int]:
        """How many cases hold, do not, and cannot be told."""
        verdicts = [self.claim.judge(*case.effect(self.claim).interval()) for case in self.cases]
        return {name: verdicts.count(name) for name in (HOLDS, FAILS, OPEN)}


def judge(claim: Claim, source: Source, cases: list[Case]) -> Finding:
    """The verdict over all cases of a claim.

    In every case: it holds if it holds in each (no correction is needed: all must agree), and does not if some case
    contradicts it with an interval widened for the number of cases (Bonferroni), since among many some would by chance.
    On average: the mean over cases is taken within each seed.
    """
    if claim.untested is not None:
        return Finding(claim, source, UNTESTED, about=claim.untested)
    if not cases:
        return Finding(claim, source, NOT_PUBLISHED if source == "published" else NOT_RUN)
    if claim.over == "mean":
        return _on_average(claim, source, cases)
    level = 1 - (1 - LEVEL) / len(cases)
    wide = [claim.judge(*case.effect(claim).interval(level)) for case in cases]
    plain = [claim.judge(*case.effect(claim).interval()) for case in cases]
    verdict = FAILS if FAILS in wide else HOLDS if set(plain) == {HOLDS} else OPEN
    against = [case for case, found in zip(cases, wide, strict=True) if found == FAILS]
    worst = min(against or cases, key=lambda case: _support(claim, case))
    low, high = worst.effect(claim).interval()
    where = ", ".join(filter(None, (worst.dataset, worst.budget, worst.at)))
    about = f"{worst.strategy} against {worst.baseline}, {where}" if worst.baseline else f"{worst.strategy}, {where}"
    return Finding(
        claim, source, verdict, cases, worst.absolute.value, worst.relative.value, low, high, about, worst.seeds
    )


def _support(claim: Claim, case: Case) -> float:
    """How far the near end of a case's interval (or its estimate) lies inside the claimed range; negative outside."""
    effect, (above, below) = case.effect(claim), _bounds(claim)
    low, high = effect.interval()
    if math.isnan(low):
        low = high = effect.value
    return min(low - above, below - high)


def _on_average(claim: Claim, source: Source, cases: list[Case]) -> Finding:
    absolute = sum(case.absolute.value for case in cases) / len(cases)
    relative = sum(case.relative.value for case in cases) / len(cases)
    seeds = sorted(set.intersection(*(set(case.pairs) for case in cases)))
    effect = estimate([sum(case.pairs[seed] for case in cases) / len(cases) for seed in seeds])
    low, high = effect.interval()
    about = f"the mean of {len(cases)} cases" + ("" if seeds else "; no deviations are published")
    verdict = claim.judge(low, high)
    return Finding(claim, source, verdict, cases, absolute, relative, low, high, about, len(seeds))


def from_measurements(claim: Claim, measured: Measured) -> list[Case]:
    """The cases of a claim that a study has run, with differences paired by seed."""
    cases = []
    for budget, dataset in measured.panels:
        if not (_among(claim.budgets, budget) and _among(claim.datasets, dataset)):
            continue
        by_strategy = {
            name: values(measured, budget, dataset, name, claim.measure, claim.at) for name in measured.names
        }
        points = list(dict.fromkeys(point for found in by_strategy.values() for point in found))
        for point in points:
            there = {name: found[point] for name, found in by_strategy.items() if point in found}
            means = {name: float(series.mean()) for name, series in there.items()}
            for strategy, baseline in _pairs(claim, means):
                case = _paired(claim, there[strategy], there[baseline] if baseline else None)
                if case is not None:
                    cases.append(Case(strategy, baseline, budget, dataset, point, **case))
    return cases


def _paired(claim: Claim, one: pd.Series[float], other: pd.Series[float] | None) -> dict[str, Any] | None:
    seeds = [seed for seed in one.index if other is None or seed in other.index]
    if not seeds:
        return None
    first = one.loc[seeds]
    absolute = first if other is None else first - other.loc[seeds]
    # What took no time at all has no relative difference.
    relative = absolute * math.nan if other is None else 100 * absolute / other.loc[seeds].where(other.loc[seeds] != 0)
    chosen = absolute if claim.unit == "points" else relative
    pairs = dict(zip(seeds, chosen.tolist(), strict=True))
    return {"absolute": estimate(absolute), "relative": estimate(relative), "seeds": len(seeds), "pairs": pairs}


def _among(names: NamesOrAll, name: str) -> bool:
    return names == "all" or name in names


def _pairs(claim: Claim, means: dict[str, float]) -> Iterator[tuple[str, str]]:
    for strategy in claim.strategies:
        others = {name: mean for name, mean in means.items() if name != strategy}
        if strategy not in means:
            continue
        if claim.baselines == "none":
            yield strategy, ""
        elif claim.baselines == "best":
            yield from ((strategy, max(others, key=others.__getitem__)),) if others else ()
        else:
            wanted = others if claim.baselines == "others" else claim.baselines
            yield from ((strategy, name) for name in wanted if name in others)


def from_paper(claim: Claim, labels: dict[str, dict[str, int]]) -> list[Case]:
    """The cases of a claim that the paper publishes numbers for, by Welch's method (its strategies were not paired).

    ± is read as a standard deviation over the 5 trials. Tables IV, V and VI have none: effects without an interval.
    "First" is the smallest number of labels that the table has.
    """
    if claim.table == "none":
        return []
    frame = _paper_table(claim)
    cases = []
    for key, panel in frame.groupby(["budget", "dataset", "at"], sort=False):
        budget, dataset, at = map(str, key)
        fits = _among(claim.budgets, budget) or not budget
        if not (fits and _among(claim.datasets, dataset) and _is_at(claim, budget, dataset, at, labels)):
            continue
        rows = panel.set_index("strategy")[["mean", "std"]]
        known = {str(name): (float(row["mean"]), float(row["std"])) for name, row in rows.iterrows()}
        for strategy, baseline in _pairs(claim, {name: mean for name, (mean, _) in known.items()}):
            cases.append(_unpaired(strategy, baseline, budget, dataset, at, known))
    return cases


def _unpaired(
    strategy: str, baseline: str, budget: str, dataset: str, at: str, known: dict[str, tuple[float, float]]
) -> Case:
    mean, spread = known[strategy]
    if not baseline:
        value = Estimate(mean, spread / math.sqrt(TRIALS), TRIALS - 1)
        return Case(strategy, "", budget, dataset, _shown(at), value, Estimate(math.nan), TRIALS)
    difference = welch(known[strategy], known[baseline], TRIALS)
    relative = difference.scaled(100 / known[baseline][0])
    return Case(strategy, baseline, budget, dataset, _shown(at), difference, relative, TRIALS)


def _shown(at: str) -> str:
    return f"{int(at):,} labels" if at.isdigit() else at


def _paper_table(claim: Claim) -> pd.DataFrame:
    """Columns budget, dataset, at, strategy, mean, std of the claim's table."""
    if claim.table == "accuracy":
        if claim.measure != "accuracy":
            return pd.DataFrame(columns=["budget", "dataset", "at", "strategy", "mean", "std"])
        return published("accuracy").assign(at=lambda frame: frame["labels"].astype(str))
    if claim.table == "ablation":
        wide = published("ablation").rename(columns={"with_auxiliary": "lplgrad", "without_auxiliary": "ent_gradnorm"})
        long = wide.melt(["budget", "dataset", "fraction"], var_name="strategy", value_name="mean")
        return long.assign(at=long["fraction"].map(shown_fraction), std=math.nan)
    frame = published("time").assign(budget="", at="", std=math.nan)
    return frame.assign(mean=frame["train" if claim.measure == "train_seconds" else "query"])


def _is_at(claim: Claim, budget: str, dataset: str, at: str, labels: dict[str, dict[str, int]]) -> bool:
    """Whether the claim is about this number of labels of the paper's."""
    if claim.table != "accuracy":
        return True
    number, end = int(at), labels[budget][dataset]
    first = min(published("accuracy").query("dataset == @dataset")["labels"])
    if isinstance(claim.at, int):
        return number == claim.at
    known: dict[str, bool] = {
        "queried": True, "last": number == end, "first": number == first, "fractions": False, "area": False,
        "first_half": 2 * number <= end, "second_half": 2 * number > end,
    }  # fmt: skip
    return known[claim.at]


def table_three() -> pd.DataFrame:
    """LPLgrad against the best other strategy in every case of Table III: columns dataset, labels, baseline,
    difference, low, high, p (Welch's), p_holm (over the twelve), significant (without Holm's correction)."""
    rows: list[dict[str, Any]] = []
    for (dataset, number), part in published("accuracy").groupby(["dataset", "labels"], sort=False):
        means = part.set_index("strategy")["mean"]
        spreads = part.set_index("strategy")["std"]
        best = str(means.drop("lplgrad").idxmax())
        known = {name: (float(means[name]), float(spreads[name])) for name in ("lplgrad", best)}
        found = welch(known["lplgrad"], known[best], TRIALS)
        low, high = found.interval()
        row = {"dataset": dataset, "labels": number, "baseline": best, "difference": found.value, "low": low}
        rows.append({**row, "high": high, "p": found.p})
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"]), significant=frame["p"] < ALPHA)


def verdicts(findings: list[Finding]) -> pd.DataFrame:
    """One row for each claim and source."""
    rows = [
        {
            "claim": found.claim.id, "section": found.claim.section, "source": found.source, "verdict": found.verdict,
            "cases": len(found.cases), **found.counts(), "effect": found.absolute, "effect_percent": found.relative,
            "low": found.low, "high": found.high, "unit": found.claim.unit, "seeds": found.seeds, "about": found.about,
        }
        for found in findings
    ]  # fmt: skip
    return pd.DataFrame(rows)


def cells(findings: list[Finding]) -> pd.DataFrame:
    """One row for each case behind each claim."""
    rows = []
    for found in findings:
        for case in found.cases:
            low, high = case.effect(found.claim).interval()
            place = {"budget": case.budget, "dataset": case.dataset, "at": case.at}
            numbers = {"effect": case.absolute.value, "effect_percent": case.relative.value, "low": low, "high": high}
            rows.append(
                {
                    "claim": found.claim.id, "source": found.source, "strategy": case.strategy,
                    "baseline": case.baseline, **place, "seeds": case.seeds, **numbers, "unit": found.claim.unit,
                    "p": case.effect(found.claim).p if case.baseline else math.nan,
                    "verdict": found.claim.judge(low, high),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
