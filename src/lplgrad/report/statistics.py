"""The page of statistics: what of ``lplgrad.statistics`` a reader is shown, and in which words."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lplgrad.report.document import Part
from lplgrad.report.tables import dataset_title, strategy_title
from lplgrad.report.wording import (
    DASH,
    count,
    interval,
    number,
    p_value,
    plus_minus,
    seeds,
    signed,
    signed_interval,
)  # fmt: skip
from lplgrad.settings import StudyFile
from lplgrad.statistics import comparison, curves, ranks
from lplgrad.statistics.inference import ALPHA


@dataclass(frozen=True)
class Statistics:
    """Everything that is computed from the measurements of a study; each table is described where it is made."""

    reference: str
    rounds: pd.DataFrame
    areas: pd.DataFrame
    area_summary: pd.DataFrame
    differences: pd.DataFrame
    round_differences: pd.DataFrame
    labels_needed: pd.DataFrame
    penalties: pd.DataFrame
    ranking: ranks.Ranking
    left_out: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their files."""
        ranking = self.ranking
        ranked = pd.DataFrame(
            {"strategy": ranking.ranks.index, "rank": ranking.ranks.to_numpy(), "blocks": ranking.blocks}
        ).assign(
            friedman_chi_squared=ranking.statistic, friedman_p=ranking.p, friedman_method=ranking.method,
            critical_difference=ranking.critical, refused=ranking.refused,
        )  # fmt: skip
        return {
            "rounds": self.rounds, "areas": self.areas, "area_summary": self.area_summary,
            "area_differences": self.differences, "round_differences": self.round_differences,
            "labels_needed": self.labels_needed, "penalties": self.penalties, "ranks": ranked,
            "left_out": self.left_out,
        }  # fmt: skip


def statistics(measurements: pd.DataFrame, strategies: list[str]) -> Statistics:
    """All statistics of a study's measurements; ``strategies`` in the order of the study."""
    there = [name for name in strategies if name in set(measurements["strategy"])]
    reference = comparison.reference_of(there)
    areas = curves.areas(measurements)
    of_rounds = comparison.round_differences(measurements, there)
    baseline = comparison.random_of(measurements)
    return Statistics(
        reference=reference,
        rounds=comparison.rounds(measurements),
        areas=areas,
        area_summary=comparison.area_summary(areas),
        differences=comparison.area_differences(areas, there, reference),
        round_differences=of_rounds,
        labels_needed=curves.labels_summary(curves.labels_needed(measurements), baseline),
        penalties=comparison.penalties(of_rounds, comparison.first_labels(measurements), there),
        ranking=ranks.rank(comparison.block_means(measurements)),
        left_out=curves.left_out(measurements),
    )


def parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    """The page, part by part."""
    title = strategy_title(file, found.reference)
    return [
        _introduction(found, title),
        *_left_out(found, file),
        *_area_parts(found, measurements, file),
        *_labels_parts(found, measurements, file),
        _penalty_part(found, file),
        _rank_part(found, file),
    ]


def _introduction(found: Statistics, title: str) -> Part:
    family = found.differences[found.differences["family"].astype(bool)]
    tested = int(family["p"].notna().sum())
    survive = int((family["p_holm"] < ALPHA).sum())
    seeds = sorted(set(family["seeds"]))
    floor = 2.0 ** (1 - max(seeds)) if seeds else math.nan
    paragraphs = (
        f"The primary endpoint is the area under the learning curve, divided by its range of labels: the mean accuracy "
        f"along the curve, in percent. It begins with round 2, since no query had a part in round 1. {title} is "
        "compared with every other strategy, seed by seed: the strategies of a seed share their first labels, their "
        "weights and their random streams, so that much of the luck of a seed cancels.",
        f"The family of tests is {title} against every other strategy, in every budget and data set: {tested} paired t "
        f"tests, two-sided, corrected by Holm's method for all of them. {survive} "
        f"{'is' if survive == 1 else 'are'} significant at 5 % after the correction (bold). All other comparisons on "
        "this page describe; they prove nothing.",
        f"Wilcoxon's signed-rank test stands beside the t test. With {count(max(seeds, default=0), 'seed')} its p "
        f"cannot be smaller than {number(floor, 4)}, whatever the difference"
        + (": it cannot be significant here." if floor > ALPHA else "."),
        "A difference that is not significant is not shown to be absent. Read the interval for what the difference may "
        "still be, and “detectable” for what this number of seeds finds with a probability of 80 %. Both it and "
        "“seeds needed” rest on a standard deviation that few seeds know badly: they are orders of magnitude.",
    )
    return Part(text=paragraphs)


def _left_out(found: Statistics, file: StudyFile) -> list[Part]:
    rows = [
        (
            row["budget"], dataset_title(file, row["dataset"]), strategy_title(file, row["strategy"]), str(row["seed"]),
            row["reason"],
        )
        for row in found.left_out.to_dict("records")
    ]  # fmt: skip
    if not rows:
        return []
    text = ("These chains lack rounds. They count neither in areas nor in labels needed, and form no pairs there.",)
    return [Part("Left out", text, ("budget", "data set", "strategy", "seed", "why"), tuple(rows))]


def _area_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    head = (
        "strategy", "seeds", "area (%)", "95 % interval", f"{strategy_title(file, found.reference)} minus it",
        "95 % interval", "p", "p, Holm", "p, Wilcoxon", "g", "detectable", "seeds needed",
    )  # fmt: skip
    parts = [Part("Area under the learning curve", (AREA_TEXT,))]
    for key, _ in curves.panels(measurements):
        means, differences = _panel(found.area_summary, key), _panel(found.differences, key)
        heading = f"{dataset_title(file, key['dataset'])}, {key['budget']} budget"
        if means.empty:
            text = "Refused: the chains have no round in common that a query had a part in."
            parts.append(Part(heading, (text,), level=3))
            continue
        first, last = int(means["labels_from"].iloc[0]), int(means["labels_to"].iloc[0])
        against = differences[differences["family"].astype(bool)].set_index("baseline")
        rows, strong = [], set()
        for place, row in enumerate(means.sort_values("mean", ascending=False, kind="stable").to_dict("records")):
            name = row["strategy"]
            mean = (plus_minus(row["mean"], row["std"]), interval(row["low"], row["high"]))
            other = against.loc[name].to_dict() if name in against.index else None
            difference = _difference_cells(other) if other else [DASH] * 8
            rows.append((strategy_title(file, name), str(row["seeds"]), *mean, *difference))
            if other and other["p_holm"] < ALPHA:
                strong |= {(place, column) for column in (4, 5, 7)}
        parts.append(Part(f"{heading}, {first:,} to {last:,} labels", (), head, tuple(rows), frozenset(strong), 3))
    return parts


AREA_TEXT = (
    "Mean ± sample standard deviation over seeds with its t interval; the difference in points with the t interval of "
    "paired differences; p of the paired t test, after Holm's correction over all of the study, and of Wilcoxon's "
    "test; Hedges' g (mean difference over the average standard deviation of the two, without the bias of few seeds); "
    "the difference that this many seeds find with 80 % power; the seeds that would find the observed one. A dash: it "
    "cannot be computed (one seed, or differences that do not vary)."
)


def _difference_cells(row: dict[Hashable, Any]) -> list[str]:
    return [
        signed(row["difference"]), signed_interval(row["low"], row["high"]), p_value(row["p"]), p_value(row["p_holm"]),
        p_value(row["p_wilcoxon"]), signed(row["g"]), number(row["detectable"]), seeds(row["seeds_needed"]),
    ]  # fmt: skip


def _labels_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    parts = [Part("Labels needed", (LABELS_TEXT,))]
    for key, _ in curves.panels(measurements):
        part = _panel(found.labels_needed, key)
        heading = f"{dataset_title(file, key['dataset'])}, {key['budget']} budget"
        if part.empty:
            parts.append(Part(heading, ("No accuracy to ask for: the curves hardly rise.",), level=3))
            continue
        strategies = [name for name in file.study.run.strategies if name in set(part["strategy"])]
        rows = []
        for accuracy, cells in part.groupby("accuracy"):
            by_strategy = cells.set_index("strategy")
            shown = (_labels_cell(by_strategy.loc[name].to_dict()) for name in strategies if name in by_strategy.index)
            rows.append((f"{float(str(accuracy)):g} %", *shown))
        head = ("accuracy", *(strategy_title(file, name) for name in strategies))
        parts.append(Part(heading, (), head, tuple(rows), level=3))
    return parts


LABELS_TEXT = (
    "Labels with which a strategy first reaches an accuracy, by linear interpolation between rounds: mean over seeds "
    "with its t interval, and below it the labels saved against random labelling, seed by seed. Where some seeds never "
    "get there, or were there with their first labels, there is no honest mean: then the number of seeds seen to get "
    "there, and their median if more than half were. “At least”: random labelling itself does not get there. "
    "A curve that goes up and down reaches an accuracy early by luck; short differences mean little."
)


def _labels_cell(row: dict[Hashable, Any]) -> str:
    if math.isnan(row["labels"]):
        median = "" if math.isnan(row["median"]) else f", median {row['median']:,.0f}"
        return f"{row['reached']:.0f} of {count(int(row['seeds']), 'seed')}{median}"
    needed = f"{row['labels']:,.0f}"
    if not math.isnan(row["low"]):
        needed += f" [{row['low']:,.0f}, {row['high']:,.0f}]"
    if math.isnan(row["saved"]):
        return needed
    if row["saved_bound"]:
        return f"{needed}\nsaves at least {row['saved']:,.0f}"
    interval = "" if math.isnan(row["saved_low"]) else f" [{row['saved_low']:,.0f}, {row['saved_high']:,.0f}]"
    return f"{needed}\nsaves {row['saved']:,.0f}{interval}".replace("-", "−")


def _penalty_part(found: Statistics, file: StudyFile) -> Part:
    wins: dict[Any, float] = found.penalties.set_index(["strategy", "baseline"])["wins"].to_dict()
    names = [name for name in file.study.run.strategies if name in set(found.area_summary["strategy"])]
    panels = int(found.penalties["panels"].max()) if len(found.penalties) else 0
    rows = [
        (strategy_title(file, name), *(DASH if name == other else number(wins[name, other]) for other in names))
        for name in names
    ]
    means = (sum(wins[one, name] for one in names if one != name) / max(len(names) - 1, 1) for name in names)
    rows.append(("mean: is beaten", *(number(mean) for mean in means)))
    text = (
        "How often the strategy of a row beats that of a column: a win is a two-sided paired t test at 5 % at one "
        f"number of labels. A budget and data set counts 1, however many rounds it has, so the most is {panels}. "
        f"Nothing is corrected here: where there is no difference at all, {panels * ALPHA / 2:.3f} is expected by "
        "chance (Ash et al. 2020, section 4). The lower the mean of a column, the less it is beaten.",
    )
    return Part("Wins, pair by pair", text, ("beats", *(strategy_title(file, name) for name in names)), tuple(rows))


def _rank_part(found: Statistics, file: StudyFile) -> Part:
    ranking = found.ranking
    rows = tuple((strategy_title(file, str(name)), f"{value:.2f}") for name, value in ranking.ranks.items())
    return Part("Average ranks", (rank_text(ranking, file),), ("strategy", "average rank"), rows)


def rank_text(ranking: ranks.Ranking, file: StudyFile) -> str:
    """What the ranks say, in a paragraph."""
    blocks = count(ranking.blocks, "block")
    text = f"Ranks of the mean area, 1 for the best, averaged over {blocks} (each budget and data set is one). "
    if ranking.method:
        how = "exact" if ranking.method == "exact" else "F approximation of Iman and Davenport"
        text += f"Friedman's test: chi-squared {ranking.statistic:.2f}, p = {p_value(ranking.p)} ({how}). "
    if ranking.refused:
        text += f"No pair is told apart: {ranking.refused}. "
    else:
        text += f"Nemenyi's critical difference at 5 % is {ranking.critical:.2f}. "
    if ranking.dropped:
        names = ", ".join(strategy_title(file, name) for name in ranking.dropped)
        text += f"Without a rank, since missing somewhere: {names}. "
    if ranking.method:
        text += "Two budgets of one data set are no independent blocks: where both run, p is smaller than it should be."
    return text.strip()


def _panel(frame: pd.DataFrame, key: dict[str, str]) -> pd.DataFrame:
    return frame[(frame["budget"] == key["budget"]) & (frame["dataset"] == key["dataset"])]
