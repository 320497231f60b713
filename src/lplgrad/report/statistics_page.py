"""The page of statistics: what of ``lplgrad.statistics`` a reader is shown, and in which words."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lplgrad.analysis import comparison, curves, ranks
from lplgrad.analysis.inference import ALPHA
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
from lplgrad.study.settings import StudyFile


@dataclass(frozen=True)
class Statistics:
    """Everything that is computed from the measurements of a study; each table is described where it is made."""

    strategies: list[str]
    reference: str
    baseline: str | None
    rounds: pd.DataFrame
    areas: pd.DataFrame
    area_summary: pd.DataFrame
    differences: pd.DataFrame
    round_differences: pd.DataFrame
    labels_needed: pd.DataFrame
    penalties: pd.DataFrame
    ranking: ranks.Ranking
    ranked_seeds: pd.Series[int]
    left_out: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their files."""
        ranking = self.ranking
        ranked = pd.DataFrame(
            {"strategy": ranking.ranks.index, "rank": ranking.ranks.to_numpy(), "blocks": ranking.blocks}
        ).assign(
            fewest_seeds=self.ranked_seeds.loc[lambda seeds: seeds > 0].min(),
            friedman_chi_squared=ranking.statistic, friedman_p=ranking.p, friedman_method=ranking.method,
            critical_difference=ranking.critical, refused=ranking.refused,
        )  # fmt: skip
        return {
            "rounds": self.rounds, "areas": self.areas, "area_summary": self.area_summary,
            "area_differences": self.differences, "round_differences": self.round_differences,
            "labels_needed": self.labels_needed, "penalties": self.penalties, "ranks": ranked,
            "left_out": self.left_out,
        }  # fmt: skip


def statistics(measurements: pd.DataFrame, strategies: list[str], accuracies: Sequence[float] = ()) -> Statistics:
    """All statistics of a study's measurements.

    Args:
        measurements: checked.
        strategies: in the order of the study.
        accuracies: percent, to ask for the labels of; by default those of ``curves.targets``.
    """
    there = [name for name in strategies if name in set(measurements["strategy"])]
    reference = comparison.reference_of(there)
    areas = curves.areas(measurements)
    of_rounds = comparison.round_differences(measurements, [reference, *(name for name in there if name != reference)])
    baseline = comparison.random_of(measurements)
    means, ranked_seeds = comparison.block_means(areas)
    return Statistics(
        strategies=there,
        reference=reference,
        baseline=baseline,
        rounds=comparison.rounds(measurements),
        areas=areas,
        area_summary=comparison.area_summary(areas),
        differences=comparison.area_differences(areas, there, reference),
        round_differences=of_rounds,
        labels_needed=curves.labels_summary(curves.labels_needed(measurements, accuracies), baseline),
        penalties=comparison.penalties(of_rounds, comparison.first_labels(measurements), there),
        ranking=ranks.rank(means),
        ranked_seeds=ranked_seeds,
        left_out=curves.left_out(measurements),
    )


def parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    """The page, part by part."""
    title = strategy_title(file, found.reference)
    return [
        _introduction(found, title),
        *_left_out(found, file),
        *_area_parts(found, measurements, file),
        *_round_parts(found, measurements, file),
        *_labels_parts(found, measurements, file),
        _penalty_part(found, file),
        _rank_part(found, file),
    ]


def _introduction(found: Statistics, title: str) -> Part:
    family = found.differences[found.differences["family"].astype(bool)]
    tested = int(family["p"].notna().sum())
    survive = int((family["p_holm"] < ALPHA).sum())
    most = max(family["seeds"], default=0)
    floor = 2.0 ** (1 - most)
    endpoint = (
        "The primary endpoint is the area under the learning curve, divided by its range of labels: the mean accuracy "
        "along the curve, in percent. It begins with round 2, since no query had a part in round 1."
    )
    paired = (
        f" {title} is compared with every other strategy, seed by seed: the strategies of a seed share their first "
        "labels, their weights and their random streams, so that much of the luck of a seed cancels."
    )
    if len(found.strategies) == 1:
        return Part(text=(endpoint, f"{title} is the only strategy, so this page compares and tests nothing."))
    if most < 2:
        why = (
            f"no seed has an area of {title} and of another strategy" if most == 0 else "a test needs two seeds or more"
        )
        return Part(text=(endpoint + paired, f"Nothing is tested here: {why}. The numbers on this page describe."))
    paragraphs = (
        endpoint + paired,
        f"The family of tests is {title} against every other strategy, in every budget and data set: {tested} paired t "
        "tests, two-sided, corrected by Holm's method for all of them. Significant at 5 % after the correction, and "
        f"set in bold: {survive or 'none'}. All other comparisons on this page describe; they prove nothing.",
        f"Wilcoxon's signed-rank test stands beside the t test. With {count(most, 'seed')} its p "
        f"cannot be smaller than {floor:.4g}, whatever the difference"
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
    text = ("These trials lack rounds that most others have. They count nowhere on this page and form no pairs.",)
    return [Part("Left out", text, ("budget", "data set", "strategy", "seed", "why"), tuple(rows))]


def _area_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    alone = len(found.strategies) == 1
    head = (
        "strategy", "seeds", "area (%)", "95 % interval", "pairs",
        f"{strategy_title(file, found.reference)} minus it", "95 % interval", "p", "p, Holm", "p, Wilcoxon", "g",
        "detectable", "seeds needed",
    )[: 4 if alone else None]  # fmt: skip
    parts = [Part("Area under the learning curve", (f"{AREA_TEXT}.",) if alone else (AREA_TEXT + AREA_DIFFERENCES,))]
    for key, _ in curves.panels(measurements):
        means, differences = _panel(found.area_summary, key), _panel(found.differences, key)
        heading = f"{dataset_title(file, key['dataset'])}, {key['budget']} budget"
        if means.empty:
            refusal = "Refused: the trials have no round in common that a query had a part in."
            parts.append(Part(heading, (refusal,), level=3))
            continue
        first, last = int(means["labels_from"].iloc[0]), int(means["labels_to"].iloc[0])
        against = differences[differences["family"].astype(bool)].set_index("baseline")
        rows, strong = [], set()
        for place, row in enumerate(means.sort_values("mean", ascending=False, kind="stable").to_dict("records")):
            name = row["strategy"]
            mean = (plus_minus(row["mean"], row["std"]), interval(row["low"], row["high"]))
            other = against.loc[name].to_dict() if name in against.index else None
            difference = _difference_cells(other) if other else [DASH] * (len(head) - 4)
            rows.append((strategy_title(file, name), str(row["seeds"]), *mean, *difference))
            if other and other["p_holm"] < ALPHA:
                strong |= {(place, column) for column in (5, 6, 8)}
        absent = [name for name in found.strategies if name not in set(means["strategy"])]
        names = ", ".join(strategy_title(file, name) for name in absent)
        text = (f"Without a whole learning curve here, and so without an area: {names}.",) if absent else ()
        over = f"{first:,} to {last:,} labels" if first < last else f"at {last:,} labels"
        parts.append(Part(f"{heading}, {over}", text, head, tuple(rows), frozenset(strong), 3))
    return parts


AREA_TEXT = (
    "Mean ± sample standard deviation over the strategy's own seeds with its t interval, which with few seeds may "
    "reach beyond what an accuracy can be"
)
AREA_DIFFERENCES = (
    "; then, from the seeds that both have (pairs), the difference in points with the t interval of paired "
    "differences; p of the paired t test, after Holm's correction over all of the study, and of Wilcoxon's test; "
    "Hedges' g (mean difference over the average standard deviation of the two, times a factor "
    "that reduces the bias of few seeds; where the two are weakly correlated over seeds it is still too small, by up "
    "to 8 % with 5 seeds and 25 % with 3); the difference that this many seeds find with 80 % power; the seeds that "
    "would find the observed one. A dash: it cannot be computed (one seed, or differences that do not vary)."
)


def _difference_cells(row: dict[Hashable, Any]) -> list[str]:
    return [
        str(row["seeds"]), signed(row["difference"]), signed_interval(row["low"], row["high"]), p_value(row["p"]),
        p_value(row["p_holm"]), p_value(row["p_wilcoxon"]), signed(row["g"]), number(row["detectable"]),
        seeds(row["seeds_needed"]),
    ]  # fmt: skip


def _round_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    title = strategy_title(file, found.reference)
    differences_too = (
        ""
        if len(found.strategies) == 1
        else (
            f"; and the differences of {title} to every other strategy in points, paired by seed, with theirs. They "
            "describe: nothing is corrected for the number of rounds"
        )
    )
    text = (
        f"Mean ± sample standard deviation over seeds after every round, with its t interval{differences_too}. The "
        "rows end where the first trial of the budget and data set does: beyond, the seeds that have reached a target "
        "accuracy are gone, and those that are left did badly.",
    )
    parts = [Part("After every round", text)]
    for key, _ in curves.panels(measurements):
        heading = f"{dataset_title(file, key['dataset'])}, {key['budget']} budget"
        means, differences = _panel(found.rounds, key), _panel(found.round_differences, key)
        names = [name for name in found.strategies if name in set(means["strategy"])]
        parts.append(_folded(heading, "accuracy (%)", means.set_index(["labels", "strategy"]), names, _mean_cell, file))
        against = differences[differences["strategy"] == found.reference]
        others = [name for name in names if name in set(against["baseline"])]
        cells = against.set_index(["labels", "baseline"])
        if others:
            parts.append(_folded("", f"{title} minus each, points", cells, others, _signed_cell, file))
    return parts


def _folded(
    heading: str, title: str, cells: pd.DataFrame, names: list[str], show: Callable[[Any], str], file: StudyFile
) -> Part:
    rows = [
        (f"{labels:,}", *(show(cells.loc[(labels, name)]) if (labels, name) in cells.index else DASH for name in names))
        for labels in sorted(set(cells.index.get_level_values(0)))
    ]
    head = ("labels", *(strategy_title(file, name) for name in names))
    return Part(heading, level=3, folded=tuple(rows), folded_head=head, folded_title=title)


def _mean_cell(row: Any) -> str:
    return f"{plus_minus(row['mean'], row['std'])}\n{interval(row['low'], row['high'])}"


def _signed_cell(row: Any) -> str:
    return f"{signed(row['difference'])}\n{signed_interval(row['low'], row['high'])}"


def _labels_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    baseline = f"{strategy_title(file, found.baseline)}, which labels at random" if found.baseline else ""
    saved = f" Labels are saved against {baseline}." if baseline else ""
    parts = [Part("Labels needed", (LABELS_TEXT + saved,))]
    for key, panel in curves.panels(measurements):
        part = _panel(found.labels_needed, key)
        heading = f"{dataset_title(file, key['dataset'])}, {key['budget']} budget"
        if part.empty:
            why = (
                "the curves hardly rise"
                if panel["labels"].nunique() > 1
                else "there are no labels but those of round 1"
            )
            parts.append(Part(heading, (f"No accuracy to ask for: {why}.",), level=3))
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
        needed += f" [{_whole(row['low'])}, {_whole(row['high'])}]"
    if math.isnan(row["saved"]):
        return needed
    if row["saved_bound"]:
        return f"{needed}\nsaves at least {_whole(row['saved'])}"
    between = "" if math.isnan(row["saved_low"]) else f" [{_whole(row['saved_low'])}, {_whole(row['saved_high'])}]"
    return f"{needed}\nsaves {_whole(row['saved'])}{between}"


def _whole(value: float) -> str:
    return f"{round(value):,}".replace("-", "−")


def _penalty_part(found: Statistics, file: StudyFile) -> Part:
    names, shares = penalty_matrix(found, file)
    if len(names) < 2:
        return Part("Wins, pair by pair", ("There is no pair of strategies that both have an area.",))
    panels = int(found.penalties["panels"].max()) if len(found.penalties) else 0
    pairs = {(row["strategy"], row["baseline"]): row for row in found.penalties.to_dict("records")}

    def cell(one: str, other: str) -> str:
        row = pairs.get((one, other), {"share": math.nan, "panels": 0})
        return number(row["share"]) + (f"\nof {row['panels']}" if 0 < row["panels"] < panels else "")

    rows = [(strategy_title(file, one), *(cell(one, other) for other in names)) for one in names]
    rows.append(("mean: is beaten", *(number(share) for share in shares.mean())))
    text = (
        "How often the strategy of a row beats that of a column: the share of the numbers of labels at which a "
        "two-sided paired t test at 5 % says so, from 0 to 1, averaged over budgets and data sets, which weigh the "
        f"same however many rounds they have (Ash et al. 2020, section 4, add them up). Below a share "
        "stands in how many the two could be compared, where it is not in all. Nothing is corrected here: where there "
        f"is no difference at all, {ALPHA / 2:g} is expected by chance. The lower the mean of a column, the less it is "
        "beaten. A dash: no two seeds that both have.",
    )
    return Part("Wins, pair by pair", text, ("beats", *(strategy_title(file, name) for name in names)), tuple(rows))


def penalty_matrix(found: Statistics, file: StudyFile) -> tuple[list[str], pd.DataFrame]:
    """The strategies of the matrix, and the share of wins of a row's over a column's; NaN where they could not be
    compared. Shares, since pairs that were compared in fewer panels would otherwise seem to win and lose less."""
    names = [name for name in file.study.run.strategies if name in set(found.area_summary["strategy"])]
    shares = found.penalties.pivot(index="strategy", columns="baseline", values="share")
    return names, shares.reindex(index=names, columns=names)


def _rank_part(found: Statistics, file: StudyFile) -> Part:
    ranked = found.ranking.ranks.items() if len(found.strategies) > 1 else ()
    rows = tuple((strategy_title(file, str(name)), f"{value:.2f}") for name, value in ranked)
    return Part("Average ranks", (rank_text(found, file),), ("strategy", "average rank"), rows)


def rank_text(found: Statistics, file: StudyFile) -> str:
    """What the ranks say, in a paragraph."""
    ranking, seeds = found.ranking, found.ranked_seeds
    if len(found.strategies) == 1:
        return "There are no ranks: one strategy ran."
    if ranking.ranks.empty:
        return "There are no ranks: in no budget and data set could strategies be compared."
    blocks = count(ranking.blocks, "block")
    text = f"Ranks of the mean area, 1 for the best, averaged over {blocks} (each budget and data set is one)"
    if ranking.blocks:
        fewest, most = int(seeds[seeds > 0].min()), int(seeds.max())
        many = count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
        text += f", in each over the {many} that all of these strategies have"
    text += ". "
    without = [f"{dataset_title(file, str(dataset))}, {budget} budget" for budget, dataset in seeds.index[seeds == 0]]
    if without:
        text += f"No block, since there they have no seed in common: {'; '.join(without)}. "
    if ranking.method:
        how = "exact" if ranking.method == "exact" else "F approximation of Iman and Davenport"
        text += f"Friedman's test: chi-squared {ranking.statistic:.2f}, p {p_value(ranking.p, '= ')} ({how}). "
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
