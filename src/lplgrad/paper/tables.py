"""The paper's Tables I to IV, each beside the paper's own numbers; ``ablation`` has Tables V and VI."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.analysis.curves import CELL, PANEL, TRIAL, panels
from lplgrad.analysis.inference import ALPHA, estimate, welch
from lplgrad.machine.files import read_json
from lplgrad.paper import TRIALS, published, spread
from lplgrad.paper.ablation import outside
from lplgrad.report.document import Part, paragraphs
from lplgrad.report.tables import Table, accuracy_table
from lplgrad.report.wording import (
    DASH,
    count,
    dataset_title,
    has_target,
    panel_title,
    plus_minus,
    signed,
    strategy_title,
    whole,
)
from lplgrad.study.layout import Layout
from lplgrad.study.settings import StudyFile

TIMED = "lplgrad"  # whose seconds the others' are multiples of
TIMED_BUDGET = "high"  # the paper names none for Table IV
SPLITS = ("train", "test")
TIME_COLUMNS = [*CELL, "phase", "unit", "seeds", "ratio", "low", "high", "paper", "outside"]


def datasets(file: StudyFile) -> Table:
    """Make Table I."""
    table = datasets_table(file)
    parts = datasets_parts(table, file)
    if not set(table["dataset"]) & set(published("datasets")["dataset"]):
        return Table(table, parts, "Data sets")
    return Table(table, parts, "Data sets (the paper's Table I)", paragraphs(__file__, "datasets"))


def budgets(file: StudyFile) -> Table:
    """Make Table II."""
    table = budgets_table(file)
    parts = budgets_parts(table, file)
    if table.merge(published("budgets"), on=PANEL).empty:
        return Table(table, parts, "Budgets")
    return Table(table, parts, "Budgets (the paper's Table II)", paragraphs(__file__, "budgets"))


def accuracy(file: StudyFile, measurements: pd.DataFrame) -> Table:
    """Make Table III beside the paper's."""
    table = accuracy_against_paper(measurements)
    note = paragraphs(__file__, "accuracy", empty=table.empty, target=has_target(file.study))
    parts = accuracy_against_paper_parts(table, file)
    return Table(table, parts, "Accuracy against the paper's Table III", note)


def time(file: StudyFile, timings: pd.DataFrame) -> Table:
    """Make Table IV beside the paper's."""
    table = time_against_paper(timings)
    note = paragraphs(__file__, "time", empty=table.empty)
    return Table(table, time_against_paper_parts(table, file), "Time against the paper's Table IV", note)


def datasets_table(file: StudyFile) -> pd.DataFrame:
    """Collect what was prepared and how models are trained on it: a row per data set, a column per number.

    ``parameters`` are those of the main model. A data set that is not prepared has empty sizes.
    """
    from lplgrad.rounds.models import build_model  # imports torch, which no other table needs

    layout = Layout(file.study)
    rows = []
    for name in file.study.run.datasets:
        row = file.study.datasets[name]
        known: dict[str, Any] = {"dataset": name}
        manifest = Path(layout.data(name)) / "dataset.json"
        if manifest.exists():
            values = read_json(manifest)
            (train, height, width, channels), (test, *_) = (values["splits"][name]["images"] for name in SPLITS)
            classes = len(values["classes"])
            parameters = build_model(row.model, channels, classes).parameters()
            known |= {
                "train": train, "test": test, "total": train + test, "image_size": f"{width}x{height}",
                "channels": channels, "classes": classes, "parameters": sum(one.numel() for one in parameters),
            }  # fmt: skip
        known |= {name: getattr(row.training, name) for name in ("epochs", "batch_size", "learning_rate")}
        rows.append({**known, "milestones": " ".join(map(str, row.training.milestones))})
    columns = ["dataset", "train", "test", "total", "image_size", "channels", "classes", "parameters", "epochs"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "batch_size", "learning_rate", "milestones"])


def datasets_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out Table I."""
    printed = published("datasets").set_index("dataset")
    kinds = ["train", "test", "total", "classes", "parameters", "epochs", "batch_size"]
    head = ["", "", "training pool", "test images", "images in all", "classes", "parameters", "epochs", "mini-batch"]
    rows, best = [], set()
    for _, ours in table.iterrows():
        name = str(ours["dataset"])
        rows.append([dataset_title(file, name), "ours", *(whole(ours[kind]) for kind in [*kinds, "image_size"])])
        if name in printed.index:
            theirs = printed.loc[name]
            rows.append(["", "paper", *(whole(theirs[kind]) for kind in kinds), ""])
            best |= {
                (len(rows) - 1, column)
                for column, kind in enumerate(kinds, start=2)
                if pd.notna(theirs[kind]) and pd.notna(ours[kind]) and theirs[kind] != ours[kind]
            }
    return [
        Part("Data sets and training", head=[*head, "image size"], rows=rows, strong=frozenset(best), text_columns=2)
    ]


def budgets_table(file: StudyFile) -> pd.DataFrame:
    """Table II: columns budget, dataset, query_size, candidates, labels, rounds."""
    rows = []
    for budget in file.study.run.budgets:
        for dataset in file.study.run.datasets:
            row = file.study.datasets[dataset].budgets[budget]
            values = {"query_size": row.query_size, "candidates": row.candidates, "labels": row.labels}
            rows.append({"budget": budget, "dataset": dataset, **values, "rounds": row.rounds})
    return pd.DataFrame(rows)


def budgets_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out a section per budget, data sets across; with the paper's number if ours differs."""
    printed = published("budgets").set_index(PANEL)
    kinds = {"query_size": "query size b", "candidates": "candidates S", "labels": "labels A", "rounds": "rounds"}
    parts = []
    for budget, part in table.groupby("budget", sort=False):
        rows = []
        for kind, title in kinds.items():
            cells = []
            for _, row in part.iterrows():
                cell, key = whole(row[kind]), (budget, row["dataset"])
                if kind in printed and key in printed.index and printed.loc[key, kind] != row[kind]:
                    cell += f" (paper: {whole(printed.loc[key, kind])})"
                cells.append(cell)
            rows.append([title, *cells])
        titles = [dataset_title(file, str(name)) for name in part["dataset"]]
        parts.append(Part(f"{str(budget).capitalize()} budget", head=["", *titles], rows=rows))
    return parts


def accuracy_against_paper(measurements: pd.DataFrame) -> pd.DataFrame:
    """Compare our accuracy with the paper's, cell by cell.

    Returns:
        The cells that both have: budget, dataset, labels, strategy, seeds, mean, std, paper_mean, paper_std,
        difference, low, high (95 % interval of the difference, Welch's), p (Welch's test, two-sided), verdict (above or
        below the paper, one seed, or not told apart, which does not prove agreement), and stopped: how many trials had
        stopped before. If any had, nothing is tested. ``paper.spread`` reads the paper's ±.
    """
    table = accuracy_table(measurements)
    printed = published("accuracy").rename(columns={"mean": "paper_mean", "std": "paper_std"})
    cells = table.merge(printed, on=[*CELL, "labels"])
    cells["stopped"] = _stopped_before(cells, measurements)
    found = [_against(cell) for _, cell in cells.iterrows()]
    tests = pd.DataFrame(found, columns=["difference", "low", "high", "p", "verdict"], index=cells.index)
    untested = cells["stopped"] > 0
    tests[["low", "high", "p"]] = tests[["low", "high", "p"]].mask(untested)
    tests["verdict"] = tests["verdict"].mask(untested, "trials stopped")
    return cells.assign(**tests)


def _stopped_before(cells: pd.DataFrame, measurements: pd.DataFrame) -> pd.Series[int]:
    """Count for each cell the trials of its strategy that stopped with fewer labels."""
    stops = measurements[measurements["repeats"] > 0]
    pairs = cells.reset_index().merge(stops[[*CELL, "labels"]], on=CELL, suffixes=("", "_stop"))
    early = pairs.loc[pairs["labels_stop"] < pairs["labels"], "index"]
    return early.value_counts().reindex(cells.index, fill_value=0)


def _against(cell: pd.Series[Any]) -> tuple[float, float, float, float, str]:
    paper = cell["paper_mean"], spread(cell["paper_std"])
    difference = welch((cell["mean"], cell["std"]), paper, (int(cell["seeds"]), TRIALS))
    side = "above the paper" if difference.value > 0 else "below the paper"
    verdict = "one seed" if math.isnan(difference.p) else "not told apart" if difference.p >= ALPHA else side
    return difference.value, *difference.interval(), difference.p, verdict


def accuracy_against_paper_parts(cells: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out strategies down, and for each number of labels ours, the paper's and the difference."""
    parts = []
    for panel, part in panels(cells):
        labels, seeds = sorted(set(part["labels"])), int(part["seeds"].max())
        head = ["", *(word for number in labels for word in (f"{number:,} labels", "paper", "difference"))]
        rows: list[list[str]] = []
        best = set()
        for strategy in [name for name in file.study.run.strategies if name in set(part["strategy"])]:
            row = [strategy_title(file, strategy)]
            for number in labels:
                cell = part[(part["labels"] == number) & (part["strategy"] == strategy)]
                if cell.empty:
                    row += [DASH, DASH, DASH]
                    continue
                only = cell.iloc[0]
                fewer = "" if only["seeds"] == seeds else f" (n = {only['seeds']})"
                row += [
                    plus_minus(only["mean"], only["std"], 1) + fewer,
                    plus_minus(only["paper_mean"], only["paper_std"], 1),
                    signed(only["difference"], 1),
                ]
                if only["p"] < ALPHA:
                    best.add((len(rows), len(row) - 1))
            rows.append(row)
        heading = f"{panel_title(file, panel)}: {count(seeds, 'trial')} against the paper's {TRIALS}"
        parts.append(Part(heading, head=head, rows=rows, strong=frozenset(best)))
    return parts


def time_against_paper(timings: pd.DataFrame) -> pd.DataFrame:
    """Compare seconds as multiples of LPLgrad's on the same seed with the same ratios of the paper.

    Returns:
        For the paper's data sets with the high budget: columns budget, dataset, strategy, phase (train, query), unit,
        seeds, ratio (mean over seeds), low, high (its 95 % t interval), paper, outside (whether the paper's ratio lies
        outside that interval; None without one). The unit ``round`` sums over the rounds in which both strategies
        trained or queried, the unit ``trial`` over trials that both completed.
    """
    spent = _spent(timings)
    printed = published("time").melt(["dataset", "strategy"], var_name="phase", value_name="seconds")
    printed = _beside_timed(printed.assign(budget=TIMED_BUDGET), [*PANEL, "phase"])
    printed["paper"] = printed["seconds"] / printed["seconds_reference"]
    both = _beside_timed(spent, [*PANEL, "seed", "round", "phase", "unit"])
    both = both[both["dataset"].isin(printed["dataset"]) & (both["budget"] == TIMED_BUDGET)]
    rows: list[list[Any]] = []
    for key, part in both.groupby([*CELL, "phase", "unit"], sort=False):
        sums = part.dropna().groupby("seed")[["seconds", "seconds_reference"]].sum()
        ratios = (sums["seconds"] / sums["seconds_reference"])[sums["seconds_reference"] > 0]
        found = estimate(ratios)
        rows.append([*key, len(ratios), found.value, *found.interval()])
    table = pd.DataFrame(rows, columns=TIME_COLUMNS[:-2])
    table = table.merge(printed[[*CELL, "phase", "paper"]], on=[*CELL, "phase"], how="left")
    far = [outside(*row) for row in table[["paper", "low", "high"]].itertuples(index=False)]
    return table.assign(outside=pd.Series(far, dtype=object))


def _spent(timings: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of each round, phase and unit; NaN if there is nothing to compare."""
    ordered = timings.sort_values("round")
    whole = ordered.groupby(TRIAL)["repeats"].transform("max") == 0
    counted = {
        (phase, unit): ordered[f"{phase}_seconds"].where(whole | (unit == "round"))
        for phase in ("train", "query")
        for unit in ("round", "trial")
    }
    long = [ordered.assign(phase=phase, unit=unit, seconds=of) for (phase, unit), of in counted.items()]
    return pd.concat(long).sort_index(kind="stable")[[*TRIAL, "round", "phase", "unit", "seconds"]]


def _beside_timed(seconds: pd.DataFrame, shared: list[str]) -> pd.DataFrame:
    """Add the seconds of LPLgrad as the column seconds_reference."""
    reference = seconds.loc[seconds["strategy"] == TIMED, [*shared, "seconds"]]
    return seconds.merge(reference, on=shared, suffixes=("", "_reference"))


def time_against_paper_parts(ratios: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out strategies down; bold where the paper's ratio lies outside our interval."""
    of_phase = [(f"{phase}, a round", f"{phase}, a trial", "paper") for phase in ("training", "query")]
    head = ["multiples of LPLgrad's", "seeds", *of_phase[0], *of_phase[1]]
    parts = []
    for panel, part in panels(ratios):
        rows: list[list[str]] = []
        best = set()
        for strategy, cells in part.groupby("strategy", sort=False):
            seeds = int(cells["seeds"].max())
            row = [strategy_title(file, str(strategy)), str(seeds)]
            for _, phase in cells.groupby("phase", sort=False):
                for _, cell in phase.iterrows():
                    if cell["outside"]:
                        best.add((len(rows), len(row)))
                    fewer = "" if cell["seeds"] == seeds else f" (n = {cell['seeds']})"
                    row.append(_ratio(cell["ratio"]) + _ratio_interval(cell["low"], cell["high"]) + fewer)
                row.append(_ratio(phase["paper"].iloc[0]))
            rows.append(row)
        parts.append(Part(f"{panel_title(file, panel)}: time", head=head, rows=rows, strong=frozenset(best)))
    return parts


def _ratio(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio_interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{_ratio(low)}, {_ratio(high)}]"
