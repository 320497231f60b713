"""Compare strategies by their measurements: tables of every statistic as .csv, and a page to read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from lplgrad.analysis.curves import panels
from lplgrad.analysis.inference import ALPHA
from lplgrad.analysis.measured import mixed_versions, read_measurements
from lplgrad.analysis.statistics import Statistics, statistics
from lplgrad.machine.files import write_text
from lplgrad.report.document import Part, crossed, document, paragraphs, strong_if
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
    strategy_title,
    strategy_titles,
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
        *_gain_parts(found, file),
        *_round_parts(found, measurements, file),
        *_labels_parts(found, measurements, file),
        _penalty_part(found, file),
        _rank_part(found, file),
    ]


def _introduction(found: Statistics, title: str) -> Part:
    family = found.differences[found.differences["family"].astype(bool)]
    values = {
        "title": title, "alone": len(found.strategies) == 1, "most": max(family["seeds"], default=0), "alpha": ALPHA,
        "tested": family["p"].notna().sum(), "survive": (family["p_holm"] < ALPHA).sum(),
    }  # fmt: skip
    return Part(text=paragraphs(__file__, "introduction", **values))


def _left_out(found: Statistics, file: StudyFile) -> list[Part]:
    rows = [
        (budget, dataset_title(file, dataset), strategy_title(file, strategy), str(seed), reason)
        for budget, dataset, strategy, seed, reason in found.left_out.itertuples(index=False)
    ]
    head = ("budget", "data set", "strategy", "seed", "why")
    return [Part("Left out", paragraphs(__file__, "left_out"), head, rows)] if rows else []


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
        tested = differences[differences["family"].astype(bool)].set_index("baseline").to_dict("index")
        rows = []
        for row in means.sort_values("mean", ascending=False, kind="stable").to_dict("records"):
            name = row["strategy"]
            mean = (plus_minus(row["mean"], row["std"]), interval(row["low"], row["high"]))
            difference = _difference_cells(tested[name]) if name in tested else [DASH] * (len(head) - 4)
            rows.append((strategy_title(file, name), str(row["seeds"]), *mean, *difference))
        absent = strategy_titles(file, set(found.strategies) - set(means["strategy"])).values()
        text = (f"Without a whole learning curve here, and so without an area: {', '.join(absent)}.",) if absent else ()
        over = f"{first:,} to {last:,} labels" if first < last else f"at {last:,} labels"
        parts.append(Part(f"{heading}, {over}", text, head, rows, level=3))
    return parts


def _difference_cells(row: dict[Any, Any]) -> list[str]:
    bold = partial(strong_if, row["p_holm"] < ALPHA)
    return [
        str(row["seeds"]), bold(signed(row["difference"])), bold(interval(row["low"], row["high"], show=signed)),
        p_value(row["p"]), bold(p_value(row["p_holm"])), p_value(row["p_wilcoxon"]), signed(row["g"]),
        number(row["detectable"]), seeds(row["seeds_needed"]),
    ]  # fmt: skip


def _gain_parts(found: Statistics, file: StudyFile) -> list[Part]:
    if found.gains.empty:
        return []
    title = strategy_title(file, found.baseline or "")
    # Where the study's random labelling is missing, there may be gains from queries without totals.
    trained = ((found.gains["gain"] == "training") | (found.gains["baseline"] != found.baseline)).any()
    columns = {"total": f"gain over {title}", "training": "from training", "query": "from queries"}
    if not trained:
        del columns["training"], columns["query"]
    head = ("strategy", *(text for column in columns.values() for text in (column, "95 % interval")))
    parts = [Part("Gain over random labelling", paragraphs(__file__, "gains", title=title, trained=trained))]
    for key, panel in panels(found.gains):
        cells = {(row["strategy"], row["gain"]): _gain_cells(row) for row in panel.to_dict("records")}
        rows = [
            (title, *(cell for gain in columns for cell in cells.get((name, gain), [DASH] * 2)))
            for name, title in strategy_titles(file, panel["strategy"]).items()
        ]
        parts.append(Part(panel_title(file, key), head=head, rows=rows, level=3))
    return parts


def _gain_cells(row: dict[Any, Any]) -> list[str]:
    return [signed(row["difference"]), interval(row["low"], row["high"], show=signed)]


def _round_parts(found: Statistics, measurements: pd.DataFrame, file: StudyFile) -> list[Part]:
    title = strategy_title(file, found.reference)
    alone = len(found.strategies) == 1
    text = paragraphs(__file__, "rounds", title=title, alone=alone, target=has_target(file.study))
    parts = [Part("After every round", text)]
    for key, _ in panels(measurements):
        means, differences = _panel(found.rounds, key), _panel(found.round_differences, key)
        parts.append(_folded(panel_title(file, key), "accuracy (%)", means, "strategy", _mean_cell, file))
        against = differences[differences["strategy"] == found.reference]
        if len(against):
            parts.append(_folded("", f"{title} minus each, points", against, "baseline", _signed_cell, file))
    return parts


def _folded(
    heading: str, title: str, frame: pd.DataFrame, across: str, show: Callable[[Any], str], file: StudyFile
) -> Part:
    """Lay out labels down, and the strategies in a column of the frame across."""
    titles = strategy_titles(file, frame[across])
    cells = {(row["labels"], row[across]): show(row) for row in frame.to_dict("records")}
    rows = crossed(cells, {labels: f"{labels:,}" for labels in sorted(set(frame["labels"]))}, titles)
    return Part(heading, level=3, folded=rows, folded_head=("labels", *titles.values()), folded_title=title)


def _mean_cell(row: Any) -> str:
    return f"{plus_minus(row['mean'], row['std'])}\n{interval(row['low'], row['high'])}"


def _signed_cell(row: Any) -> str:
    return f"{signed(row['difference'])}\n{interval(row['low'], row['high'], show=signed)}"


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
        titles = strategy_titles(file, part["strategy"])
        cells = {(row["accuracy"], row["strategy"]): _labels_cell(row) for row in part.to_dict("records")}
        rows = crossed(cells, {accuracy: f"{accuracy:g} %" for accuracy in sorted(set(part["accuracy"]))}, titles)
        parts.append(Part(heading, head=("accuracy", *titles.values()), rows=rows, level=3))
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
    titles = strategy_titles(file, shares.index)
    if len(titles) < 2:
        return Part("Wins, pair by pair", ("There is no pair of strategies that both have an area.",))
    cells = {}
    for row in found.penalties.to_dict("records"):
        fewer = f"\nof {row['panels']}" if 0 < row["panels"] < found.penalties["panels"].max() else ""
        cells[row["strategy"], row["baseline"]] = number(row["share"]) + fewer
    rows = [*crossed(cells, titles, titles), ("mean: is beaten", *(number(share) for share in shares.mean()))]
    text = paragraphs(__file__, "wins", chance=ALPHA / 2)
    return Part("Wins, pair by pair", text, ("beats", *titles.values()), rows)


def _rank_part(found: Statistics, file: StudyFile) -> Part:
    ranked = found.ranking.ranks.items() if len(found.strategies) > 1 else ()
    rows = [(strategy_title(file, str(name)), f"{value:.2f}") for name, value in ranked]
    return Part("Average ranks", (rank_text(found, file),), ("strategy", "average rank"), rows)


def rank_text(found: Statistics, file: StudyFile) -> str:
    """Describe the ranks in a paragraph."""
    seeds = found.ranked_seeds
    without = [panel_title(file, {"budget": budget, "dataset": dataset}) for budget, dataset in seeds.index[seeds == 0]]
    values = {
        "alone": len(found.strategies) == 1, "ranking": found.ranking, "seeds": seeds[seeds > 0], "without": without,
        "dropped": [strategy_title(file, name) for name in found.ranking.dropped],
    }  # fmt: skip
    (text,) = paragraphs(__file__, "ranks", **values)
    return text


def _panel(frame: pd.DataFrame, key: dict[str, str]) -> pd.DataFrame:
    return frame[(frame["budget"] == key["budget"]) & (frame["dataset"] == key["dataset"])]
