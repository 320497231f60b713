"""Compare strategies by their measurements: tables of every statistic as .csv, and a page to read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from lplgrad.analysis.curves import panels
from lplgrad.analysis.inference import ALPHA
from lplgrad.analysis.measured import mixed_versions, read_measurements
from lplgrad.analysis.statistics import Statistics, statistics
from lplgrad.machine.files import write_text
from lplgrad.report.document import Part, document, paragraphs
from lplgrad.report.wording import (
    DASH,
    count,
    dataset_title,
    has_target,
    interval,
    number,
    p_value,
    panel_title,
    plus_minus,
    seeds,
    signed,
    signed_interval,
    strategy_title,
    whole,
)
from lplgrad.study.reading import read_study_file
from lplgrad.study.settings import StudyFile


def run(arguments: argparse.Namespace) -> None:
    """Compute and write."""
    file = read_study_file(arguments.study)
    measurements = read_measurements(arguments.measurements, file, arguments.partial)
    found = statistics(measurements, file.study.run.strategies, arguments.accuracies)
    for name, table in found.tables().items():
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    caution = Part(text=(mixed_versions(measurements),))
    page = document(f"Statistics: {file.study.title}", [caution, *parts(found, measurements, file)])
    write_text(arguments.output / "statistics.html", page)


def parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out the page, part by part."""
    return [
        _introduction(found, strategy_title(file, found.reference)),
        *_left_out(found, file),
        *_area_parts(found, measurements, file),
        *_round_parts(found, measurements, file),
        *_labels_parts(found, measurements, file),
        _penalty_part(found, file),
        _rank_part(found, file),
    ]


def _introduction(found: Statistics, title: str) -> Part:
    family = found.differences[found.differences["family"].astype(bool)]
    most = max(family["seeds"], default=0)
    text = paragraphs(
        __file__, "introduction", title=title, alone=len(found.strategies) == 1, most=most,
        tested=family["p"].notna().sum(), survive=(family["p_holm"] < ALPHA).sum(), floor=2.0 ** (1 - most),
        alpha=ALPHA,
    )  # fmt: skip
    return Part(text=text)


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
    text = paragraphs(__file__, "left_out")
    return [Part("Left out", text, ("budget", "data set", "strategy", "seed", "why"), rows)]


def _area_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    alone = len(found.strategies) == 1
    against = f"{strategy_title(file, found.reference)} minus it"
    head = (
        "strategy", "seeds", "area (%)", "95 % interval", "pairs", against, "95 % interval", "p", "p, Holm",
        "p, Wilcoxon", "g", "detectable", "seeds needed",
    )[: 4 if alone else None]  # fmt: skip
    items = paragraphs(__file__, "areas", against="" if alone else against)
    parts = [Part("Area under the learning curve", items=items)]
    for key, _ in panels(measurements):
        means, differences = _panel(found.area_summary, key), _panel(found.differences, key)
        heading = panel_title(file, key)
        if means.empty:
            refusal = "Refused: no round after a query is common to all trials."
            parts.append(Part(heading, (refusal,), level=3))
            continue
        first, last = int(means["labels_from"].iloc[0]), int(means["labels_to"].iloc[0])
        tested = differences[differences["family"].astype(bool)].set_index("baseline")
        rows, strong = [], set()
        for place, row in enumerate(means.sort_values("mean", ascending=False, kind="stable").to_dict("records")):
            name = row["strategy"]
            mean = (plus_minus(row["mean"], row["std"]), interval(row["low"], row["high"]))
            other = tested.loc[name].to_dict() if name in tested.index else None
            difference = _difference_cells(other) if other else [DASH] * (len(head) - 4)
            rows.append((strategy_title(file, name), str(row["seeds"]), *mean, *difference))
            if other and other["p_holm"] < ALPHA:
                strong |= {(place, column) for column in (5, 6, 8)}
        absent = [name for name in found.strategies if name not in set(means["strategy"])]
        names = ", ".join(strategy_title(file, name) for name in absent)
        text = (f"Without a whole learning curve here, and so without an area: {names}.",) if absent else ()
        over = f"{first:,} to {last:,} labels" if first < last else f"at {last:,} labels"
        parts.append(Part(f"{heading}, {over}", text, head, rows, frozenset(strong), 3))
    return parts


def _difference_cells(row: dict[Any, Any]) -> list[str]:
    return [
        str(row["seeds"]), signed(row["difference"]), signed_interval(row["low"], row["high"]), p_value(row["p"]),
        p_value(row["p_holm"]), p_value(row["p_wilcoxon"]), signed(row["g"]), number(row["detectable"]),
        seeds(row["seeds_needed"]),
    ]  # fmt: skip


def _round_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    title = strategy_title(file, found.reference)
    alone = len(found.strategies) == 1
    text = paragraphs(__file__, "rounds", title=title, alone=alone, target=has_target(file.study))
    parts = [Part("After every round", text)]
    for key, _ in panels(measurements):
        means, differences = _panel(found.rounds, key), _panel(found.round_differences, key)
        names = [name for name in found.strategies if name in set(means["strategy"])]
        cells = means.set_index(["labels", "strategy"])
        parts.append(_folded(panel_title(file, key), "accuracy (%)", cells, names, _mean_cell, file))
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
    return Part(heading, level=3, folded=rows, folded_head=head, folded_title=title)


def _mean_cell(row: Any) -> str:
    return f"{plus_minus(row['mean'], row['std'])}\n{interval(row['low'], row['high'])}"


def _signed_cell(row: Any) -> str:
    return f"{signed(row['difference'])}\n{signed_interval(row['low'], row['high'])}"


def _labels_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    baseline = strategy_title(file, found.baseline) if found.baseline else ""
    parts = [Part("Labels needed", paragraphs(__file__, "labels", baseline=baseline))]
    for key, panel in panels(measurements):
        part = _panel(found.labels_needed, key)
        heading = panel_title(file, key)
        if part.empty:
            several = panel["labels"].nunique() > 1
            why = "the curves hardly rise" if several else "there are no labels but those of round 1"
            parts.append(Part(heading, (f"No accuracy to count labels for: {why}.",), level=3))
            continue
        strategies = [name for name in file.study.run.strategies if name in set(part["strategy"])]
        rows = []
        for accuracy, cells in part.groupby("accuracy"):
            by_strategy = cells.set_index("strategy")
            shown = (_labels_cell(by_strategy.loc[name].to_dict()) for name in strategies if name in by_strategy.index)
            rows.append((f"{float(str(accuracy)):g} %", *shown))
        head = ("accuracy", *(strategy_title(file, name) for name in strategies))
        parts.append(Part(heading, (), head, rows, level=3))
    return parts


def _labels_cell(row: dict[Any, Any]) -> str:
    if math.isnan(row["labels"]):
        median = "" if math.isnan(row["median"]) else f", median {row['median']:,.0f}"
        return f"{row['reached']:.0f} of {count(int(row['seeds']), 'seed')}{median}"
    needed = f"{row['labels']:,.0f}"
    if not math.isnan(row["low"]):
        needed += f" [{whole(row['low'])}, {whole(row['high'])}]"
    if math.isnan(row["saved"]):
        return needed
    if row["saved_bound"]:
        return f"{needed}\nsaves at least {whole(row['saved'])}"
    between = "" if math.isnan(row["saved_low"]) else f" [{whole(row['saved_low'])}, {whole(row['saved_high'])}]"
    return f"{needed}\nsaves {whole(row['saved'])}{between}"


def _penalty_part(found: Statistics, file: StudyFile) -> Part:
    shares = found.penalty_matrix()
    names = list(shares.index)
    if len(names) < 2:
        return Part("Wins, pair by pair", ("There is no pair of strategies that both have an area.",))
    most = int(found.penalties["panels"].max()) if len(found.penalties) else 0
    pairs = {(row["strategy"], row["baseline"]): row for row in found.penalties.to_dict("records")}

    def cell(one: str, other: str) -> str:
        row = pairs.get((one, other), {"share": math.nan, "panels": 0})
        return number(row["share"]) + (f"\nof {row['panels']}" if 0 < row["panels"] < most else "")

    rows = [(strategy_title(file, one), *(cell(one, other) for other in names)) for one in names]
    rows.append(("mean: is beaten", *(number(share) for share in shares.mean())))
    text = paragraphs(__file__, "wins", chance=ALPHA / 2)
    return Part("Wins, pair by pair", text, ("beats", *(strategy_title(file, name) for name in names)), rows)


def _rank_part(found: Statistics, file: StudyFile) -> Part:
    ranked = found.ranking.ranks.items() if len(found.strategies) > 1 else ()
    rows = [(strategy_title(file, str(name)), f"{value:.2f}") for name, value in ranked]
    return Part("Average ranks", (rank_text(found, file),), ("strategy", "average rank"), rows)


def rank_text(found: Statistics, file: StudyFile) -> str:
    """Describe the ranks in a paragraph."""
    ranking, seeds = found.ranking, found.ranked_seeds
    if len(found.strategies) == 1:
        return "There are no ranks: one strategy ran."
    if ranking.ranks.empty:
        return "There are no ranks: in no budget and data set could strategies be compared."
    fewest, most = (int(seeds[seeds > 0].min()), int(seeds.max())) if ranking.blocks else (0, 0)
    many = count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    without = [f"{dataset_title(file, str(dataset))}, {budget} budget" for budget, dataset in seeds.index[seeds == 0]]
    dropped = [strategy_title(file, name) for name in ranking.dropped]
    (text,) = paragraphs(
        __file__, "ranks", blocks=ranking.blocks, many=many if ranking.blocks else "", without=without,
        ranking=ranking, dropped=dropped,
    )  # fmt: skip
    return text


def _panel(frame: pd.DataFrame, key: dict[str, str]) -> pd.DataFrame:
    return frame[(frame["budget"] == key["budget"]) & (frame["dataset"] == key["dataset"])]
