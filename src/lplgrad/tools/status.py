"""Show how far a study is, from its files alone while it runs. Nothing is locked, and little is read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from lplgrad.analysis.departures import Departure, departures
from lplgrad.machine import locks
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds.settings import QUERY, TRAINING
from lplgrad.study.availability import changed_originals, check_prepared_datasets, lost_datasets, preparation_warnings
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import left_out, read_configuration


def run(arguments: argparse.Namespace) -> None:
    """Look and print."""
    study = read_configuration(arguments.files)
    try:
        check_prepared_datasets(study)
        problems = [f"changed: {problem}" for problem in changed_originals(study).values()]
    except UserError as error:
        problems = [f"wrong data: {error}"]
    problems += [f"not prepared: {message}" for message in lost_datasets(study).values()]
    for name in study.run.datasets:
        problems += preparation_warnings(study, name)
    layout = Layout(study, left_out(study))
    for line in (*problems, *report(layout)):
        print(line)
    if study.person is not None:
        from lplgrad.labeling import waiting  # a simulated study does without

        print("", *waiting.message(waiting.waiting(study, layout), study, layout, arguments.files), sep="\n")


@dataclass(frozen=True)
class Step:
    """A training or a query that is not done."""

    kind: str  # "train" or "query"
    folder: Path  # of its round
    superseded: str  # how it departs from the study, if it was done with other settings; else empty
    running: bool
    last_line: str  # of its log; empty if there is none

    def shown(self) -> tuple[str, str]:
        """Say what happened to it (empty if it has not begun), and the details."""
        where, line = f"{self.kind} in {self.folder}", self.last_line
        if self.running:
            epoch = re.match(r"epoch \d+/\d+", line)
            return "running", f"{where}{f', {epoch[0]}' if epoch else ''}"
        if self.superseded:
            return "other settings", f"{where}: {self.superseded}; it does not count"
        state = "failed" if _is_failure(line) else "stopped" if line else ""
        killed = "without a word, as if killed; last line: "
        how = killed if state == "stopped" and ": error: " not in line else ""
        return state, f"{_log(self.folder, self.kind)}: {how}{line}"


@dataclass
class TrialStatus:
    """How far a trial is. An overhead is what a job took beyond the seconds that it measured, to start and to end."""

    trial: Trial
    rounds: int
    trained: int = 0  # rounds
    queried: int = 0  # rounds; the last has no query
    accuracies: list[float | None] = field(default_factory=list)  # of its trained rounds
    train_seconds: float | None = None  # of the last training
    seconds_per_label: float | None = None  # of that training; None if it took none
    train_overhead: float = 0
    query_seconds: float | None = None  # of the last query
    query_overhead: float = 0
    next: Step | None = None  # None at the end


def status_of(layout: Layout, trial: Trial, departed: Departure | None = None) -> TrialStatus:
    """Read how far a trial is. The rounds from where it departs from the study do not count."""
    found = TrialStatus(trial, layout.rounds(trial.budget, trial.dataset))
    problems = {departed.file: departed.problem} if departed is not None else {}
    for number in range(1, found.rounds + 1):
        trained, queried = Path(layout.trained(trial, number)), Path(layout.round(trial, number))
        if trained / TRAINING in problems or not (trained / "metrics.json").exists():
            found.next = _step("train", trained, problems.get(trained / TRAINING, ""))
            break
        found.trained = number
        metrics = read_json(trained / "metrics.json")
        found.accuracies.append(_number(metrics.get("accuracy")))
        if number == found.rounds:
            break
        if queried / QUERY in problems or not (queried / "next_labeled.csv").exists():
            found.next = _step("query", queried, problems.get(queried / QUERY, ""))
            break
        found.queried = number
    if found.trained:
        folder = Path(layout.trained(trial, found.trained))
        found.train_seconds, found.train_overhead = _seconds(folder, "train", "timing.json")
        if found.train_seconds:
            found.seconds_per_label = found.train_seconds / max(1, _number(metrics.get("labels")) or 1)
    if found.queried:
        folder = Path(layout.round(trial, found.queried))
        found.query_seconds, found.query_overhead = _seconds(folder, "query", "query_timing.json")
    return found


def _step(kind: str, folder: Path, superseded: str) -> Step:
    return Step(kind, folder, superseded, locks.is_held(folder / f".{kind}.lock"), _last_line(_log(folder, kind)))


def _log(folder: Path, kind: str) -> Path:
    return Path("logs", *folder.parts[1:], f"{kind}.log")


def _seconds(folder: Path, kind: str, timing: str) -> tuple[float | None, float]:
    """Return the seconds that a job measured, and those that it took besides by Snakemake's clock (0 without it)."""
    path = folder / timing
    seconds = _number(read_json(path).get(f"{kind}_seconds")) if path.exists() else None
    try:
        header, row = _log(folder, kind).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()[:2]
        whole = float(dict(zip(header.split("\t"), row.split("\t"), strict=True))["s"])
        return seconds, max(0.0, whole - (seconds or 0))
    except (OSError, ValueError, KeyError):
        return seconds, 0.0


def _is_failure(line: str) -> bool:
    if re.search(r": error: (ended by|interrupted)", line):
        return False  # stopped, by a person or a cluster
    return ": error: " in line or "Error" in line


def _failures_elsewhere(layout: Layout) -> Iterator[str]:
    """Yield failures of other rules, such as those of tables. A log is rewritten when its job runs again."""
    for log in sorted(Path("logs", layout.study.study).rglob("*.log")):
        if log.stem not in {"train", "query"} and _is_failure(line := _last_line(log)):
            yield f"failed: {log}: {line}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def seconds_left(layout: Layout, trials: list[TrialStatus]) -> tuple[float, int]:
    """Estimate the seconds that are left, one job after the other, and count the jobs of which nothing is known yet.

    A training takes time in proportion to its labels, a query as long as the one before, and a job as long as the last
    one to start and end. A round 1 that strategies share is counted once.
    """
    seconds, unknown = 0.0, 0
    counted: set[str] = set()
    for _, panel in _by_panel(trials):
        known = [found for found in panel if found.seconds_per_label]
        mean_rate, mean_overhead = _mean(one.seconds_per_label for one in known), _mean(o.train_overhead for o in known)
        mean_query = _mean(one.query_seconds + one.query_overhead for one in panel if one.query_seconds is not None)
        for found in panel:
            budget = layout.budget(found.trial.budget, found.trial.dataset)
            rate, overhead = found.seconds_per_label or mean_rate, found.train_overhead or mean_overhead or 0
            query = mean_query if found.query_seconds is None else found.query_seconds + found.query_overhead
            for number in range(found.trained + 1, found.rounds + 1):
                folder = layout.trained(found.trial, number)
                if folder not in counted:
                    counted.add(folder)
                    seconds += rate * budget.bought(number) + overhead if rate else 0
                    unknown += rate is None
            queries = found.rounds - 1 - found.queried
            seconds += (query or 0) * queries
            unknown += queries * (query is None)
    return seconds, unknown


def _by_panel(trials: list[TrialStatus]) -> Iterator[tuple[tuple[str, str], list[TrialStatus]]]:
    for panel, found in groupby(trials, lambda one: (one.trial.budget, one.trial.dataset)):
        yield panel, list(found)


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def report(layout: Layout) -> Iterator[str]:
    """Yield the lines of the report."""
    trials, broken = [], []
    try:
        departed = departures(layout)
    except UserError as error:
        departed, broken = {}, [f"broken: {error}"]
    for trial in layout.trials():
        try:
            trials.append(status_of(layout, trial, departed.get(trial)))
        except UserError as error:
            broken.append(f"broken: {error}")
    done = sum(found.next is None for found in trials)
    if layout.study.person is None:
        yield f"{layout.study.study}: {done} of {len(trials) + len(broken)} trials are done"
    else:
        most = next(iter(layout.study.datasets[layout.study.person].budgets.values())).labels
        yield f"{layout.study.study}: {max(layout.counts, default=0):,} of {most:,} labels, and a person gives them"
    width = max(len(name) for name in ["strategy", *layout.study.run.strategies]) + 2
    for (budget, dataset), panel in _by_panel(trials):
        yield ""
        yield f"{budget}/{dataset}, {layout.rounds(budget, dataset)} rounds"
        yield (
            f"  {'strategy':<{width}}{'accuracy':>8}{' in round':<9}  {'s/training':>10}  {'s/query':>8}  "
            "rounds trained, by seed"
        )
        for strategy in dict.fromkeys(found.trial.strategy for found in panel):
            seeds = [found for found in panel if found.trial.strategy == strategy]
            # Seeds are averaged at the last round that each of those that began has reached.
            begun = [found for found in seeds if found.trained]
            common = min((found.trained for found in begun), default=0)
            yield (
                f"  {strategy:<{width}}{_shown([found.accuracies[common - 1] for found in begun], 4):>8}"
                f"{f' {common}' if common else '':<9}  {_shown([found.train_seconds for found in seeds], 1):>10}  "
                f"{_shown([found.query_seconds for found in seeds], 2):>8}  "
                + " ".join(str(found.trained) for found in seeds)
            )
    steps = {step.folder / step.kind: step for found in trials if (step := found.next) is not None}
    lines: dict[str, list[str]] = {"running": [], "failed": [], "elsewhere": [], "stopped": [], "other settings": []}
    lines["elsewhere"] += _failures_elsewhere(layout)
    for state, details in (step.shown() for step in steps.values()):
        lines.get(state, []).append(f"{state}: {details}")
    listed = [*(line for state in lines.values() for line in state), *broken]
    yield from ["", *listed] if listed else []
    if steps:
        seconds, unknown = seconds_left(layout, trials)
        about = [f"about {_duration(seconds)} of trainings and queries, one after the other"] if seconds else []
        about += [f"{unknown} trainings and queries whose time is not known yet"] if unknown else []
        yield ""
        yield f"left: {', and '.join(about) or 'less than a second'}"


def _shown(values: list[float | None], digits: int) -> str:
    """Write the mean of the values that are known."""
    mean = _mean(values)
    return "-" if mean is None else f"{mean:.{digits}f}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
