"""The paper's Tables I to IV, each beside the paper's own numbers; ``ablation`` has Tables V and VI."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad import modalities
from lplgrad.analysis.curves import CELL, PANEL, TRIAL, panels
from lplgrad.analysis.inference import ALPHA, estimate, welch
from lplgrad.machine.files import read_json
from lplgrad.paper import TRIALS, published, spread
from lplgrad.paper.ablation import outside
from lplgrad.report.document import Part, crossed, paragraphs, strong_if
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
    strategy_titles,
    whole,
)
from lplgrad.study.layout import Layout
from lplgrad.study.settings import RecipeRow, StudyFile

TIMED = "lplgrad"  # whose seconds the others' are multiples of
TIMED_BUDGET = "high"  # the paper names none for Table IV
SPLITS = ("train", "test")
TIME_COLUMNS = [*CELL, "phase", "unit", "seeds", "ratio", "low", "high", "paper", "outside"]


def datasets(file: StudyFile) -> Table:
    """Make Table I."""
    table = datasets_table(file)
    both = table["dataset"].isin(published("datasets")["dataset"]).any()
    heading, note = ("Data sets (the paper's Table I)", paragraphs(__file__, "datasets")) if both else ("Data sets", ())
    return Table(table, heading, datasets_parts(table, file), note)


def budgets(file: StudyFile) -> Table:
    """Make Table II."""
    table = budgets_table(file)
    both = len(table.merge(published("budgets"), on=PANEL)) > 0
    heading, note = ("Budgets (the paper's Table II)", paragraphs(__file__, "budgets")) if both else ("Budgets", ())
    return Table(table, heading, budgets_parts(table, file), note)


def accuracy(file: StudyFile, measurements: pd.DataFrame) -> Table:
    """Make Table III beside the paper's."""
    table = accuracy_against_paper(measurements)
    note = paragraphs(__file__, "accuracy", empty=table.empty, target=has_target(file.study))
    return Table(table, "Accuracy against the paper's Table III", accuracy_against_paper_parts(table, file), note)


def time(file: StudyFile, timings: pd.DataFrame) -> Table:
    """Make Table IV beside the paper's."""
    table = time_against_paper(timings)
    note = paragraphs(__file__, "time", empty=table.empty)
    return Table(table, "Time against the paper's Table IV", time_against_paper_parts(table, file), note)


def datasets_table(file: StudyFile) -> pd.DataFrame:
    """Collect what was prepared and how models are trained on it: a row per data set, a column per number.

    ``parameters`` are those of the main model. A data set that is not prepared has empty sizes.
    """
    from lplgrad.rounds.checkpoints import build  # imports torch, which no other table needs

    layout = Layout(file.study)
    rows = []
    for name in file.study.run.datasets:
        row = file.study.datasets[name]
        known: dict[str, Any] = {"dataset": name}
        manifest = Path(layout.data(name)) / "dataset.json"
        if manifest.exists():
            values = read_json(manifest)
            (train, *stored), (test, *_) = (values["splits"][name]["inputs"] for name in SPLITS)
            classes = len(values["classes"])
            shape = modalities.registry.load(row.modality).input_shape(stored)
            learner = build(row.backbone, RecipeRow(trains="plain"), shape, classes)
            parameters = learner.networks["model"].parameters()
            known |= {
                "train": train, "test": test, "total": train + test,
                "input_shape": "x".join(map(str, shape)), "classes": classes,
                "parameters": sum(one.numel() for one in parameters),
            }  # fmt: skip
        known |= {name: getattr(row.training, name) for name in ("epochs", "batch_size", "learning_rate")}
        schedule = row.training.schedule
        milestones = " ".join(map(str, row.training.milestones)) if schedule == "step" else schedule
        rows.append({**known, "milestones": milestones})
    columns = ["dataset", "train", "test", "total", "input_shape", "classes", "parameters", "epochs"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "batch_size", "learning_rate", "milestones"])


def datasets_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out Table I."""
    printed = published("datasets").set_index("dataset")
    kinds = ["train", "test", "total", "classes", "parameters", "epochs", "batch_size"]
    head = [
        "",
        "",
        "training pool",
        "test examples",
        "examples in all",
        "classes",
        "parameters",
        "epochs",
        "mini-batch",
    ]
    rows = []
    for _, ours in table.iterrows():
        name = str(ours["dataset"])
        rows.append([dataset_title(file, name), "ours", *(whole(ours[kind]) for kind in [*kinds, "input_shape"])])
        if name in printed.index:
            theirs = printed.loc[name, kinds]
            differ = theirs.notna() & ours[kinds].notna() & (theirs != ours[kinds])
            rows.append(["", "paper", *(strong_if(bool(differ[kind]), whole(theirs[kind])) for kind in kinds), ""])
    return [Part("Data sets and training", head=[*head, "input shape"], rows=rows, text_columns=2)]


def budgets_table(file: StudyFile) -> pd.DataFrame:
    """Table II: columns budget, dataset, query_size, candidates, labels, rounds.

    After query_size comes start, the labels of round 1, if a budget has more or fewer than a query buys, and then
    chosen_by, if a budget does not draw them uniformly.
    """
    rows = []
    for budget, dataset in product(file.study.run.budgets, file.study.run.datasets):
        row = file.study.datasets[dataset].budgets[budget]
        numbers = {name: getattr(row, name) for name in ("query_size", "candidates", "labels", "rounds")}
        first = {"start": row.bought(1), "chosen_by": row.start.by or f"{row.start.draw} draw"}
        rows.append({"budget": budget, "dataset": dataset, **numbers, **first})
    table = pd.DataFrame(rows)
    start = [] if (table["start"] == table["query_size"]).all() else ["start"]
    start += [] if (table["chosen_by"] == "uniform draw").all() else ["chosen_by"]
    return table[[*PANEL, "query_size", *start, "candidates", "labels", "rounds"]]


def budgets_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out a section per budget, data sets across; with the paper's number if ours differs."""
    printed = published("budgets").set_index(PANEL).to_dict("index")
    extra = {"start": "labels of round 1", "chosen_by": "labels of round 1 chosen by"}
    kinds = {"query_size": "query size b"} | {name: title for name, title in extra.items() if name in table}
    kinds |= {"candidates": "candidates S", "labels": "labels A", "rounds": "rounds"}
    parts = []
    for budget, part in table.groupby("budget", sort=False):
        titles = {name: dataset_title(file, name) for name in part["dataset"]}
        cells = {}
        for row in part.to_dict("records"):
            theirs = printed.get((budget, row["dataset"]), {})
            for kind in kinds:
                differs = theirs.get(kind, row[kind]) != row[kind]
                cells[kind, row["dataset"]] = whole(row[kind]) + (f" (paper: {whole(theirs[kind])})" if differs else "")
        rows = crossed(cells, kinds, titles)
        parts.append(Part(f"{str(budget).capitalize()} budget", head=["", *titles.values()], rows=rows))
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
        seeds = int(part["seeds"].max())
        columns = {
            (number, kind): title
            for number in sorted(set(part["labels"]))
            for kind, title in (("ours", f"{number:,} labels"), ("paper", "paper"), ("difference", "difference"))
        }
        shown: dict[Any, str] = {}
        for cell in part.to_dict("records"):
            fewer = "" if cell["seeds"] == seeds else f" (n = {cell['seeds']})"
            of_kind = {
                "ours": plus_minus(cell["mean"], cell["std"], 1) + fewer,
                "paper": plus_minus(cell["paper_mean"], cell["paper_std"], 1),
                "difference": strong_if(cell["p"] < ALPHA, signed(cell["difference"], 1)),
            }
            shown |= {(cell["strategy"], (cell["labels"], kind)): text for kind, text in of_kind.items()}
        rows = crossed(shown, strategy_titles(file, part["strategy"]), columns)
        heading = f"{panel_title(file, panel)}: {count(seeds, 'trial')} against the paper's {TRIALS}"
        parts.append(Part(heading, head=["", *columns.values()], rows=rows))
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
        rows = []
        for strategy, cells in part.groupby("strategy", sort=False):
            seeds = int(cells["seeds"].max())
            row = [strategy_title(file, str(strategy)), str(seeds)]
            for _, phase in cells.groupby("phase", sort=False):
                for cell in phase.to_dict("records"):
                    fewer = "" if cell["seeds"] == seeds else f" (n = {cell['seeds']})"
                    shown = _ratio(cell["ratio"]) + _ratio_interval(cell["low"], cell["high"]) + fewer
                    row.append(strong_if(cell["outside"], shown))
                row.append(_ratio(phase["paper"].iloc[0]))
            rows.append(row)
        parts.append(Part(f"{panel_title(file, panel)}: time", head=head, rows=rows))
    return parts


def _ratio(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio_interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{_ratio(low)}, {_ratio(high)}]"
