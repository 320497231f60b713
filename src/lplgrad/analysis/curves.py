"""Learning curves as numbers: which trials count, the area under a curve, the labels that an accuracy takes.

Measurements are those of ``measured.read_measurements``, with accuracies as fractions. Results are in percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from lplgrad.analysis.inference import Array, estimate

PANEL = ["budget", "dataset"]
CELL = [*PANEL, "strategy"]
TRIAL = [*CELL, "seed"]
FIRST_QUERIED = 2


def panels(frame: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """The rows of each budget and data set, with the two as a dictionary, in the order of the frame."""
    for key, part in frame.groupby(PANEL, sort=False):
        budget, dataset = map(str, cast(tuple[object, object], key))
        yield {"budget": budget, "dataset": dataset}, part


def curves(measurements: pd.DataFrame) -> pd.DataFrame:
    """The measurements in percent."""
    return measurements.assign(accuracy=measurements["accuracy"] * 100.0)


def last_round(panel: pd.DataFrame) -> int:
    """The last round to compare in a budget and data set: the last one that at least half of the trials of two
    strategies reached (or of the only strategy). Rounds that a stopped trial repeats count as reached."""
    reached = (panel["round"] + panel["repeats"]).groupby([panel["strategy"], panel["seed"]]).max()
    most = reached.groupby("strategy").quantile(0.5, interpolation="lower")
    return int(most.nlargest(2).min())


def left_out(measurements: pd.DataFrame) -> pd.DataFrame:
    """List the trials that do not count: columns budget, dataset, strategy, seed, reason. A trial counts if it trained
    or repeated every round from 1 to ``last_round``. A seed or strategy without any round is not listed."""
    found = []
    for _, panel in panels(measurements):
        last = last_round(panel)
        for key, trial in panel.groupby(TRIAL, sort=False):
            newest, repeats = trial["round"].max(), trial["repeats"].max()
            missing = sorted({*range(1, last + 1)} - {*trial["round"], *range(newest, newest + repeats + 1)})
            if missing:
                which = f"round {missing[0]}" if len(missing) == 1 else f"{len(missing)} of {last} rounds"
                found.append([*key, f"{which} missing"])
    return pd.DataFrame(found, columns=[*TRIAL, "reason"])


def complete(measurements: pd.DataFrame) -> pd.DataFrame:
    """The measurements of the trials that count, up to the last round of their budget and data set."""
    kept = [measurements.iloc[:0]]
    for _, panel in panels(measurements):
        last = last_round(panel)
        part = panel[panel["round"] <= last]
        part = part.assign(repeats=part["repeats"].clip(upper=last - part["round"]))
        there = part.assign(there=1 + part["repeats"]).groupby(TRIAL)["there"].transform("sum")
        kept.append(part[there == last])
    return pd.concat(kept)


def until_first_end(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of every budget and data set up to the labels with which its first trial ends. Beyond them, only
    the seeds that did badly are left, because the others reached their target accuracy."""
    ends = frame.groupby(TRIAL)["labels"].max().groupby(PANEL).min().rename("end")
    return frame[(frame["labels"] <= frame.join(ends, on=PANEL)["end"]).to_numpy()]


def compared(measurements: pd.DataFrame) -> pd.DataFrame:
    """The curves that strategies are compared by: whole trials, in percent, as far as all trials of the panel go."""
    return until_first_end(curves(complete(measurements)))


def by_strategy(measurements: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The curves that are compared, by budget, data set and strategy: labels down, seeds across."""
    return {
        (str(budget), str(dataset), str(strategy)): part.pivot(index="labels", columns="seed", values="accuracy")
        for (budget, dataset, strategy), part in compared(measurements).groupby(CELL, sort=False)
    }


def heights(curve: pd.DataFrame, labels: float) -> pd.Series[float]:
    """Accuracy of every seed at a number of labels on a curve of ``by_strategy``, by linear interpolation; empty if the
    curve does not reach so far."""
    if curve.empty or not curve.index[0] <= labels <= curve.index[-1]:
        return pd.Series(dtype=float)
    place, whole = curve.index.to_numpy(dtype=float), curve.dropna(axis="columns")
    return pd.Series({seed: float(np.interp(labels, place, whole[seed])) for seed in whole}, dtype=float)


def trial_seconds(timings: pd.DataFrame) -> pd.DataFrame:
    """Add up the seconds of every trial that neither stopped nor lacks a number: columns budget, dataset, strategy,
    seed, train_seconds, query_seconds. ``timings`` are those of ``measured.read_timings``."""
    kept = [timings.iloc[:0]]
    for _, panel in panels(timings):
        last = last_round(panel)
        part = panel[panel["round"] <= last]
        # The last round has no query, unless the panel ends before the budget.
        part = part.assign(query_seconds=part["query_seconds"].where(part["round"] < last, 0.0))
        spent = part.dropna(subset=["train_seconds", "query_seconds"])
        kept.append(spent[spent.groupby(TRIAL)["round"].transform("nunique") == last])
    return pd.concat(kept).groupby(TRIAL, sort=False)[["train_seconds", "query_seconds"]].sum().reset_index()


def normalized_area(
    labels: npt.ArrayLike, accuracy: npt.ArrayLike, low: float | None = None, high: float | None = None
) -> Array:
    """Area under learning curves by the trapezoidal rule, divided by the range of labels: the mean height.

    Args:
        labels: rising, shape (R,).
        accuracy: in any unit, shape (..., R). The result has shape (...) and the same unit.
        low, high: range of the labels, at whose ends the curve is interpolated; by default the whole curve.
    """
    labels, accuracy = np.asarray(labels, dtype=float), np.asarray(accuracy, dtype=float)
    low, high = labels[0] if low is None else low, labels[-1] if high is None else high
    if not labels[0] <= low <= high <= labels[-1]:
        raise ValueError(f"the range {low:g} to {high:g} is not within {labels[0]:g} to {labels[-1]:g}")
    grid = np.unique([low, *labels[(labels > low) & (labels < high)], high])
    heights = np.apply_along_axis(lambda curve: np.interp(grid, labels, curve), -1, accuracy)
    if low == high:
        return cast(Array, heights[..., 0])
    return cast(Array, np.trapezoid(heights, grid, axis=-1) / (high - low))


def areas(measurements: pd.DataFrame) -> pd.DataFrame:
    """The primary endpoint: the normalised area under every trial's curve, from round 2 (no query had a part in round
    1) to where the first trial of the panel ends. A panel without such a range has no rows.

    Returns:
        Columns budget, dataset, strategy, seed, labels_from, labels_to, area (percent).
    """
    rows = []
    for _, panel in panels(compared(measurements)):
        low = panel.loc[panel["round"] == FIRST_QUERIED, "labels"].max()
        high = panel.groupby(TRIAL)["labels"].max().min()
        if math.isnan(low) or low > high:
            continue
        for key, trial in panel.groupby(TRIAL, sort=False):
            trial = trial.sort_values("labels")
            area = float(normalized_area(trial["labels"], trial["accuracy"], low, high))
            rows.append([*key, int(low), int(high), area])
    return pd.DataFrame(rows, columns=[*TRIAL, "labels_from", "labels_to", "area"])


def first_reached(labels: npt.ArrayLike, accuracy: npt.ArrayLike, target: float) -> tuple[float, str]:
    """Find where a curve of shape (R,) with rising labels first reaches an accuracy, by linear interpolation.

    Returns:
        The labels and ``""``; or a bound and ``"before"`` (the first round is already there) or ``"after"`` (none is).
    """
    labels, accuracy = np.asarray(labels, dtype=float), np.asarray(accuracy, dtype=float)
    there = np.flatnonzero(accuracy >= target)
    if not len(there):
        return float(labels[-1]), "after"
    after = int(there[0])
    if after == 0:
        return float(labels[0]), "before"
    share = (target - accuracy[after - 1]) / (accuracy[after] - accuracy[after - 1])
    return float(labels[after - 1] + share * (labels[after] - labels[after - 1])), ""


def targets(panel: pd.DataFrame) -> list[float]:
    """Accuracies (percent) whose labels are of interest: round numbers between the strategies' first means over seeds
    and the best mean, in the widest step that gives at least three."""
    means = curves(panel).groupby(["strategy", "labels"])["accuracy"].mean()
    low, high = float(means.groupby("strategy").first().max()), float(means.max())
    for step in (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1):
        numbers = np.arange(math.floor(low / step) + 1, math.floor(high / step + 1e-9) + 1) * step
        if len(numbers) >= 3:
            return [float(value) for value in numbers.round(6)]
    return []


def labels_needed(measurements: pd.DataFrame, wanted: Sequence[float] = ()) -> pd.DataFrame:
    """Find the labels with which each trial first reaches accuracies (percent; by default ``targets`` of each panel).

    The columns are budget, dataset, strategy, seed, accuracy (the target), labels and censored (of ``first_reached``).
    """
    rows = []
    for _, panel in panels(complete(measurements)):
        asked = wanted or targets(panel)
        for key, trial in curves(panel).groupby(TRIAL, sort=False):
            trial = trial.sort_values("labels")
            rows += [[*key, target, *first_reached(trial["labels"], trial["accuracy"], target)] for target in asked]
    return pd.DataFrame(rows, columns=[*TRIAL, "accuracy", "labels", "censored"])


def labels_summary(needed: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Labels needed by strategy and target (of ``labels_needed``), and saved against a baseline, seed by seed.

    Returns:
        Columns budget, dataset, accuracy, strategy, seeds, reached (seeds seen to reach it), labels, low, high (mean
        and t interval; only if all seeds were seen to), median (if more than half were), saved, saved_low, saved_high,
        saved_bound. Savings are given only if both of every pair were seen to get there; if only the baseline was not,
        the mean is a lower bound (``saved_bound`` "at least").
    """
    rows = []
    for key, cell in needed.groupby([*PANEL, "accuracy", "strategy"], sort=False):
        seen = cell["censored"] == ""
        mean = estimate(cell["labels"]) if seen.all() else estimate([])
        row = [*key, len(cell), int(seen.sum()), mean.value, *mean.interval()]
        rows.append([*row, _median(cell), *_saved(needed, cell, baseline)])
    columns = ["seeds", "reached", "labels", "low", "high", "median", "saved", "saved_low", "saved_high", "saved_bound"]
    return pd.DataFrame(rows, columns=[*PANEL, "accuracy", "strategy", *columns])


def _median(cell: pd.DataFrame) -> float:
    """Trials that did not get there lie above the median, those that were there at once below it. If one of the former
    ended before the median, the median is unknown."""
    beyond = {"before": -math.inf, "after": math.inf}
    values = sorted(beyond.get(how, labels) for labels, how in zip(cell["labels"], cell["censored"], strict=True))
    middle = values[(len(values) - 1) // 2 : len(values) // 2 + 1]
    ended = cell.loc[cell["censored"] == "after", "labels"].min()
    known = all(map(math.isfinite, middle)) and not middle[-1] > ended
    return sum(middle) / len(middle) if known else math.nan


def _saved(needed: pd.DataFrame, cell: pd.DataFrame, baseline: str | None) -> tuple[float, float, float, str]:
    nothing = (math.nan, math.nan, math.nan, "")
    if baseline is None or cell["strategy"].iloc[0] == baseline:
        return nothing
    key = [*PANEL, "accuracy", "seed"]
    pairs = cell.merge(needed[needed["strategy"] == baseline], on=key, suffixes=("", "_baseline"))
    if pairs.empty or (pairs["censored"] != "").any() or (pairs["censored_baseline"] == "before").any():
        return nothing
    saved = estimate(pairs["labels_baseline"] - pairs["labels"])
    if (pairs["censored_baseline"] == "after").any():
        return saved.value, math.nan, math.nan, "at least"
    return saved.value, *saved.interval(), ""
