"""The paper's tables, each of ours beside the paper's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lplgrad.estimation import parameters
from lplgrad.files import read_json
from lplgrad.paper import TRIALS, published
from lplgrad.report.tables import Section, dataset_title, strategy_title
from lplgrad.settings import StudyFile
from lplgrad.statistics.curves import by_strategy, heights, panels
from lplgrad.statistics.inference import ALPHA, estimate, welch
from lplgrad.study import Layout

ABLATION_COLUMNS = [
    "budget", "dataset", "fraction", "labels", "interpolated", "with_strategy", "without_strategy", "seeds",
    "with_mean", "with_std", "without_mean", "without_std", "gain", "gain_low", "gain_high", "paper_with",
    "paper_without",
]  # fmt: skip


def datasets_table(file: StudyFile) -> pd.DataFrame:
    """Table I: what was prepared and how it is trained on.

    Returns:
        Columns dataset, train, test, image_size, channels, classes, parameters (of the main model), epochs, batch_size,
        learning_rate, milestones; a data set that is not prepared has empty sizes.
    """
    layout = Layout(file.study)
    rows = []
    for name in file.study.run.datasets:
        row = file.study.datasets[name]
        known: dict[str, Any] = {"dataset": name}
        manifest = Path(layout.data(name)) / "dataset.json"
        if manifest.exists():
            values = read_json(manifest)
            (train, height, width, channels), test = values["splits"]["train"]["images"], values["splits"]["test"]
            known |= {
                "train": train,
                "test": test["images"][0],
                "image_size": f"{width}x{height}",
                "channels": channels,
                "classes": len(values["classes"]),
                "parameters": parameters(row.model, channels, len(values["classes"]))[0],
            }
        known |= {
            "epochs": row.training.epochs,
            "batch_size": row.training.batch_size,
            "learning_rate": row.training.learning_rate,
            "milestones": " ".join(map(str, row.training.milestones)),
        }
        rows.append(known)
    columns = ["dataset", "train", "test", "image_size", "channels", "classes", "parameters", "epochs", "batch_size"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "learning_rate", "milestones"])


def datasets_sections(table: pd.DataFrame, file: StudyFile) -> list[Section]:
    """Table I as people read it."""
    printed = published("datasets").set_index("dataset")
    kinds = ["train", "test", "classes", "parameters", "epochs", "batch_size"]
    head = ["", "", "training pool", "test images", "classes", "parameters", "epochs", "mini-batch", "image size"]
    rows, best = [], set()
    for _, ours in table.iterrows():
        name = str(ours["dataset"])
        rows.append(
            [dataset_title(file, name), "ours", *(_whole(ours[kind]) for kind in kinds), str(ours["image_size"])]
        )
        if name in printed.index:
            theirs = printed.loc[name]
            rows.append(["", "paper", *(_whole(theirs[kind]) for kind in kinds), ""])
            best |= {
                (len(rows) - 1, column)
                for column, kind in enumerate(kinds, start=2)
                if pd.notna(theirs[kind]) and pd.notna(ours[kind]) and theirs[kind] != ours[kind]
            }
    return [Section("Data sets and training", head, rows, frozenset(best), text_columns=2)]


def budgets_table(file: StudyFile) -> pd.DataFrame:
    """Table II: columns budget, dataset, query_size, candidates, labels, rounds."""
    rows = []
    for budget in file.study.run.budgets:
        for dataset in file.study.run.datasets:
            row = file.study.datasets[dataset].budgets[budget]
            values = {"query_size": row.query_size, "candidates": row.candidates, "labels": row.labels}
            rows.append({"budget": budget, "dataset": dataset, **values, "rounds": row.rounds})
    return pd.DataFrame(rows)


def budgets_sections(table: pd.DataFrame, file: StudyFile) -> list[Section]:
    """Table II as people read it: a section a budget, data sets across; the paper's number where ours differs."""
    printed = published("budgets").set_index(["budget", "dataset"])
    kinds = {"query_size": "query size b", "candidates": "candidates S", "labels": "labels A", "rounds": "rounds"}
    sections = []
    for budget, part in table.groupby("budget", sort=False):
        rows = []
        for kind, title in kinds.items():
            cells = []
            for _, row in part.iterrows():
                cell, key = _whole(row[kind]), (budget, row["dataset"])
                if kind in printed and key in printed.index and printed.loc[key, kind] != row[kind]:
                    cell += f" (paper: {_whole(printed.loc[key, kind])})"
                cells.append(cell)
            rows.append([title, *cells])
        titles = [dataset_title(file, str(name)) for name in part["dataset"]]
        sections.append(Section(f"{str(budget).capitalize()} budget", ["", *titles], rows))
    return sections


def accuracy_against_paper(table: pd.DataFrame) -> pd.DataFrame:
    """Table III: our accuracy beside the paper's, cell by cell.

    Args:
        table: of ``tables.accuracy_table``.

    Returns:
        The paper's cells that the study has too: budget, dataset, labels, strategy, seeds, mean, std, paper_mean,
        paper_std, difference, low, high (95 % interval of the difference, Welch's), p (Welch's test, two-sided) and
        verdict. What the paper prints behind the sign is read as a standard deviation over its 5 trials; one that is
        printed as 0.0 is read as the largest that rounds to it.
    """
    printed = published("accuracy").rename(columns={"mean": "paper_mean", "std": "paper_std"})
    cells = table.merge(printed, on=["budget", "dataset", "labels", "strategy"])
    found = [_against(cell) for _, cell in cells.iterrows()]
    return cells.assign(**pd.DataFrame(found, columns=["difference", "low", "high", "p", "verdict"], index=cells.index))


def _against(cell: pd.Series[Any]) -> tuple[float, float, float, float, str]:
    paper = cell["paper_mean"], max(cell["paper_std"], 0.05)
    difference = welch((cell["mean"], cell["std"]), paper, (int(cell["seeds"]), TRIALS))
    side = "above the paper" if difference.value > 0 else "below the paper"
    verdict = "one seed" if math.isnan(difference.p) else "as the paper" if difference.p >= ALPHA else side
    return difference.value, *difference.interval(), difference.p, verdict


def accuracy_against_paper_sections(cells: pd.DataFrame, file: StudyFile) -> list[Section]:
    """Table III as people read it: strategies down, and for each number of labels ours, the paper's, the difference."""
    sections = []
    for key, part in panels(cells):
        budget, dataset = key.values()
        labels = sorted(set(part["labels"]))
        head = ["", *(word for number in labels for word in (f"{number:,} labels", "paper", "difference"))]
        rows: list[list[str]] = []
        best = set()
        for strategy in [name for name in file.study.run.strategies if name in set(part["strategy"])]:
            row = [strategy_title(file, strategy)]
            for number in labels:
                cell = part[(part["labels"] == number) & (part["strategy"] == strategy)]
                if cell.empty:
                    row += ["–", "–", "–"]
                    continue
                only = cell.iloc[0]
                row += [
                    _plus_minus(only["mean"], only["std"]),
                    _plus_minus(only["paper_mean"], only["paper_std"]),
                    _signed(only["difference"]),
                ]
                if only["p"] < ALPHA:
                    best.add((len(rows), len(row) - 1))
            rows.append(row)
        seeds = int(part["seeds"].max())
        heading = f"{dataset_title(file, dataset)}, {budget} budget: {seeds} trials against the paper's {TRIALS}"
        sections.append(Section(heading, head, rows, frozenset(best)))
    return sections


def time_against_paper(table: pd.DataFrame, reference: str = "lplgrad") -> pd.DataFrame:
    """Table IV: seconds of a round as multiples of one strategy's, beside the same ratios of the paper.

    Args:
        table: of ``tables.time_table``.
        reference: the strategy that the others are divided by; budgets and data sets without it are left out.

    Returns:
        Columns budget, dataset, strategy, train_ratio, query_ratio, paper_train_ratio, paper_query_ratio.
    """
    ours = _ratios(
        table.rename(columns={"train_round": "train", "query_round": "query"}), ["budget", "dataset"], reference
    )
    printed = _ratios(published("time"), ["dataset"], reference).rename(
        columns={"train_ratio": "paper_train_ratio", "query_ratio": "paper_query_ratio"}
    )
    return ours.merge(printed, on=["dataset", "strategy"], how="left")


def _ratios(frame: pd.DataFrame, panel: list[str], reference: str) -> pd.DataFrame:
    base = frame[frame["strategy"] == reference][[*panel, "train", "query"]]
    joined = frame.merge(base, on=panel, suffixes=("", "_reference"))
    for kind in ("train", "query"):
        joined[f"{kind}_ratio"] = joined[kind] / joined[f"{kind}_reference"]
    return joined[[*panel, "strategy", "train_ratio", "query_ratio"]]


def time_against_paper_sections(ratios: pd.DataFrame, file: StudyFile) -> list[Section]:
    """Table IV as people read it."""
    head = ["multiples of LPLgrad's", "training", "paper", "query", "paper"]
    sections = []
    for key, part in panels(ratios):
        budget, dataset = key.values()
        rows = [
            [strategy_title(file, row["strategy"])]
            + [_ratio(row[key]) for key in ("train_ratio", "paper_train_ratio", "query_ratio", "paper_query_ratio")]
            for _, row in part.iterrows()
        ]
        sections.append(Section(f"{dataset_title(file, dataset)}, {budget} budget: time", head, rows))
    return sections


def ablation_table(measurements: pd.DataFrame, file: StudyFile) -> pd.DataFrame:
    """Tables V and VI: accuracy with and without the auxiliary module after a third, a half and all of the budget.

    A fraction of the budget that is no round's number of labels is interpolated linearly, trial by trial, between the
    rounds around it. Beyond the end of the first trial of a budget and data set there are no values: once some seeds
    have reached a target accuracy, those that are left did badly.

    Returns:
        Columns budget, dataset, fraction, labels, interpolated, with_strategy, without_strategy, seeds (of both),
        with_mean, with_std, without_mean, without_std, gain, gain_low, gain_high (mean of the paired differences and
        its 95 % t interval), paper_with, paper_without; accuracies in percent. The paper's numbers stand beside
        lplgrad and ent_gradnorm.
    """
    printed = {
        (row.budget, row.dataset, row.fraction): (row.with_auxiliary, row.without_auxiliary)
        for row in published("ablation").itertuples()
    }
    rows = []
    curves = by_strategy(measurements)
    for panel, part in panels(measurements):
        budget, dataset = panel.values()
        total = file.study.datasets[dataset].budgets[budget].labels
        for one, other in Layout(file.study).ablation_pairs():
            pair = [curves.get((budget, dataset, name), pd.DataFrame()) for name in (one, other)]
            for fraction in ("1/3", "1/2", "1"):
                labels = float(Fraction(fraction) * total)
                found = pd.concat([heights(curve, labels) for curve in pair], axis=1, join="inner").to_numpy().T
                key = (budget, dataset, fraction)
                beside = (one, other) == ("lplgrad", "ent_gradnorm") and key in printed
                paper_with, paper_without = printed[key] if beside else (math.nan, math.nan)
                rows.append(
                    {
                        "budget": budget,
                        "dataset": dataset,
                        "fraction": fraction,
                        "labels": round(labels, 1),
                        "interpolated": not (part["labels"] == labels).any(),
                        "with_strategy": one,
                        "without_strategy": other,
                        "seeds": found.shape[1],
                        **_summary("with", found[0]),
                        **_summary("without", found[1]),
                        **_paired(found[0] - found[1]),
                        "paper_with": paper_with,
                        "paper_without": paper_without,
                    }
                )
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


def _summary(name: str, values: np.ndarray[Any, Any]) -> dict[str, float]:
    n = len(values)
    return {
        f"{name}_mean": float(values.mean()) if n else math.nan,
        f"{name}_std": float(values.std(ddof=1)) if n > 1 else math.nan,
    }


def _paired(differences: np.ndarray[Any, Any]) -> dict[str, float]:
    gain = estimate(differences)
    low, high = gain.interval()
    return {"gain": gain.value, "gain_low": low, "gain_high": high}


def ablation_sections(table: pd.DataFrame, file: StudyFile) -> list[Section]:
    """Tables V and VI as people read them."""
    head = ["labels", "", "with", "without", "gain", "95 % interval", "paper: with", "without", "gain"]
    sections = []
    keys = ["budget", "dataset", "with_strategy", "without_strategy"]
    for key, part in table.groupby(keys, sort=False):
        budget, dataset, one, other = map(str, key)
        rows: list[list[str]] = []
        best = set()
        for _, row in part.iterrows():
            labels = f"{row['labels']:,.0f}" + (" (interpolated)" if row["interpolated"] else "")
            share = "all" if row["fraction"] == "1" else row["fraction"] + " of A"
            if not (row["gain_low"] <= 0 <= row["gain_high"]) and not math.isnan(row["gain_low"]):
                best.add((len(rows), 4))
            interval = "–" if pd.isna(row["gain_low"]) else f"{row['gain_low']:+.1f} to {row['gain_high']:+.1f}"
            rows.append(
                [
                    labels,
                    share,
                    _plus_minus(row["with_mean"], row["with_std"]),
                    _plus_minus(row["without_mean"], row["without_std"]),
                    _signed(row["gain"]),
                    interval,
                    _plus_minus(row["paper_with"], math.nan),
                    _plus_minus(row["paper_without"], math.nan),
                    _signed(row["paper_with"] - row["paper_without"]),
                ]
            )
        titles = f"{strategy_title(file, one)} against {strategy_title(file, other)}"
        seeds = int(part["seeds"].max())
        heading = f"{dataset_title(file, dataset)}, {budget} budget: {titles}, {seeds} paired trials"
        sections.append(Section(heading, head, rows, frozenset(best), text_columns=2))
    return sections


def _shown(value: Any, write: Callable[[Any], str]) -> str:
    return "–" if pd.isna(value) else write(value)


def _whole(value: Any) -> str:
    return value if isinstance(value, str) else _shown(value, lambda number: f"{number:,.0f}")


def _signed(value: float) -> str:
    return _shown(value, lambda number: f"{number:+.1f}")


def _ratio(value: float) -> str:
    return _shown(value, lambda number: f"{number:.3g}")


def _plus_minus(mean: float, std: float) -> str:
    return _shown(mean, lambda number: f"{number:.1f}" + ("" if pd.isna(std) else f" ± {std:.1f}"))
