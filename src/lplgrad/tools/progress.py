"""How far a study is, told from its files alone while it runs: nothing is locked, and little is read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lplgrad.analysis.departures import Departure, departures
from lplgrad.machine import locks
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds.settings import QUERY, TRAINING
from lplgrad.study.layout import Layout, Trial


@dataclass(frozen=True)
class Step:
    """A training or a query that is not done.

    Attributes:
        kind: ``train`` or ``query``.
        folder: of its round.
        log: where it tells of itself.
        running: a process is at it.
        last_line: of the log; empty, if there is none.
        superseded: it was done with other settings than the study's: which; empty, if it was not.
    """

    kind: str
    folder: Path
    log: Path
    running: bool
    last_line: str
    superseded: str = ""

    @property
    def failed(self) -> bool:
        """It ended, and told why."""
        return not self.running and not self.superseded and _tells_of_failure(self.last_line)


@dataclass
class Progress:
    """How far a trial is.

    Attributes:
        trial, rounds: which, and how many rounds it has.
        trained: rounds trained.
        queried: rounds queried; the last has no query.
        accuracies: after each of its trained rounds.
        train_seconds: of the last training.
        seconds_per_label: of that training; None where it took none.
        train_overhead: seconds that its job took besides: to start, to read the images, to test.
        query_seconds: of the last query.
        query_overhead: seconds that its job took besides.
        next: what is to be done next; None at the end.
    """

    trial: Trial
    rounds: int
    trained: int = 0
    queried: int = 0
    accuracies: list[float | None] = field(default_factory=list)
    train_seconds: float | None = None
    seconds_per_label: float | None = None
    train_overhead: float = 0
    query_seconds: float | None = None
    query_overhead: float = 0
    next: Step | None = field(default=None)


def progress_of(layout: Layout, trial: Trial, departed: Departure | None = None) -> Progress:
    """How far a trial is.

    Args:
        layout: of the study.
        trial: the trial.
        departed: from where on it was run with other settings than the study's; these rounds do not count.

    Raises:
        UserError: a measurement is broken.
    """
    found = Progress(trial, layout.rounds(trial.budget, trial.dataset))
    other, problem = (departed.file, departed.problem) if departed is not None else (None, "")
    for number in range(1, found.rounds + 1):
        trained, queried = Path(layout.trained(trial, number)), Path(layout.round(trial, number))
        if other == trained / TRAINING or not (trained / "metrics.json").exists():
            found.next = _step("train", trained, problem if other == trained / TRAINING else "")
            break
        found.trained = number
        found.accuracies.append(_number(read_json(trained / "metrics.json").get("accuracy")))
        if number == found.rounds:
            break
        if other == queried / QUERY or not (queried / "next_labeled.csv").exists():
            found.next = _step("query", queried, problem if other == queried / QUERY else "")
            break
        found.queried = number
    if found.trained:
        folder = Path(layout.trained(trial, found.trained))
        metrics, timing = read_json(folder / "metrics.json"), _read(folder / "timing.json")
        found.train_seconds = _number(timing.get("train_seconds"))
        if found.train_seconds:
            found.seconds_per_label = found.train_seconds / max(1, _number(metrics.get("labels")) or 1)
        found.train_overhead = _overhead(folder, "train", found.train_seconds)
    if found.queried:
        folder = Path(layout.round(trial, found.queried))
        found.query_seconds = _number(_read(folder / "query_timing.json").get("query_seconds"))
        found.query_overhead = _overhead(folder, "query", found.query_seconds)
    return found


def _step(kind: str, folder: Path, superseded: str) -> Step:
    log = _log(folder, kind)
    return Step(kind, folder, log, locks.is_held(folder / f".{kind}.lock"), _last_line(log), superseded)


def _log(folder: Path, kind: str) -> Path:
    return Path("logs", *folder.parts[1:], f"{kind}.log")


def _overhead(folder: Path, kind: str, seconds: float | None) -> float:
    """What the job took by Snakemake's clock beyond the seconds it measured itself; 0 where that clock tells nothing:
    of a job by hand, or one that went on where it had been stopped.
    """
    try:
        header, row = _log(folder, kind).with_suffix(".tsv").read_text(encoding="utf-8").splitlines()[:2]
        return max(0.0, float(dict(zip(header.split("\t"), row.split("\t"), strict=True))["s"]) - (seconds or 0))
    except (OSError, ValueError, KeyError):
        return 0.0


def _tells_of_failure(line: str) -> bool:
    if re.search(r": error: (ended by|interrupted)", line):
        return False  # stopped, by a person or a cluster
    return ": error: " in line or "Error" in line


def failures_elsewhere(layout: Layout) -> Iterator[str]:
    """What failed besides trainings and queries: preparing a data set, a table, a figure. Such a log is written anew
    whenever its job runs.
    """
    for log in sorted(Path("logs", layout.study.study).rglob("*.log")):
        if log.stem not in {"train", "query"} and _tells_of_failure(line := _last_line(log)):
            yield f"failed: {log}: {line}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _read(path: Path) -> dict[str, object]:
    return read_json(path) if path.exists() else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def seconds_left(layout: Layout, trials: list[Progress]) -> tuple[float, int]:
    """An estimate of the trainings and queries that are left, from measured seconds: training takes time in proportion
    to the labels, a query what the queries before took, and each job what the last took to start and end. A round 1
    that strategies share is counted once.

    Returns:
        Seconds of one job after the other, and the number of jobs of which nothing is known yet.
    """
    per_label: dict[tuple[str, str], list[float]] = defaultdict(list)
    per_query: dict[tuple[str, str], list[float]] = defaultdict(list)
    train_overhead: dict[tuple[str, str], list[float]] = defaultdict(list)
    for found in trials:
        key = (found.trial.budget, found.trial.dataset)
        if found.seconds_per_label:
            per_label[key].append(found.seconds_per_label)
            train_overhead[key].append(found.train_overhead)
        if found.query_seconds is not None:
            per_query[key].append(found.query_seconds + found.query_overhead)
    seconds, unknown = 0.0, 0
    counted: set[str] = set()
    for found in trials:
        key = (found.trial.budget, found.trial.dataset)
        size = layout.study.datasets[found.trial.dataset].budgets[found.trial.budget].query_size
        rate = found.seconds_per_label or _mean(per_label[key])
        overhead = found.train_overhead or _mean(train_overhead[key]) or 0
        query = _mean(per_query[key]) if found.query_seconds is None else found.query_seconds + found.query_overhead
        for number in range(found.trained + 1, found.rounds + 1):
            folder = layout.trained(found.trial, number)
            if folder not in counted:
                counted.add(folder)
                seconds += rate * number * size + overhead if rate else 0
                unknown += rate is None
        queries = found.rounds - 1 - found.queried
        seconds += (query or 0) * queries
        unknown += queries * (query is None)
    return seconds, unknown


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def report(layout: Layout) -> Iterator[str]:
    """The lines of a report."""
    trials, broken = [], []
    try:
        departed = departures(layout)
    except UserError as error:
        departed, broken = {}, [str(error)]
    for trial in layout.trials():
        try:
            trials.append(progress_of(layout, trial, departed.get(trial)))
        except UserError as error:
            broken.append(str(error))
    done = sum(found.next is None for found in trials)
    yield f"{layout.study.study}: {done} of {len(trials) + len(broken)} trials are done"
    groups: dict[tuple[str, str], dict[str, list[Progress]]] = defaultdict(lambda: defaultdict(list))
    for found in trials:
        groups[found.trial.budget, found.trial.dataset][found.trial.strategy].append(found)
    width = max(len(name) for name in layout.study.run.strategies) + 2
    for (budget, dataset), strategies in groups.items():
        rounds = layout.rounds(budget, dataset)
        yield ""
        yield f"{budget}/{dataset}, {rounds} rounds"
        yield (
            f"  {'strategy':<{width}}{'accuracy':>8}{' in round':<9}  {'s/training':>10}  {'s/query':>8}  "
            "rounds trained, by seed"
        )
        for strategy, found_ones in strategies.items():
            # Seeds are averaged at the last round that each of those that began has reached.
            begun = [one for one in found_ones if one.trained]
            common = min((one.trained for one in begun), default=0)
            yield (
                f"  {strategy:<{width}}{_shown([one.accuracies[common - 1] for one in begun], 4):>8}"
                f"{f' {common}' if common else '':<9}  "
                f"{_shown([one.train_seconds for one in found_ones], 1):>10}  "
                f"{_shown([one.query_seconds for one in found_ones], 2):>8}  "
                + " ".join(str(one.trained) for one in found_ones)
            )
    steps = {step.folder / step.kind: step for step in (found.next for found in trials) if step is not None}
    running = [step for step in steps.values() if step.running]
    failed = [step for step in steps.values() if step.failed]
    superseded = [step for step in steps.values() if step.superseded and not step.running]
    stopped = [
        step
        for step in steps.values()
        if step.last_line and not step.running and not step.failed and not step.superseded
    ]
    elsewhere = list(failures_elsewhere(layout))
    if running or failed or stopped or broken or elsewhere or superseded:
        yield ""
    for step in running:
        epoch = re.match(r"epoch \d+/\d+", step.last_line)
        yield f"running: {step.kind} in {step.folder}{f', {epoch[0]}' if epoch else ''}"
    for step in failed:
        yield f"failed: {step.log}: {step.last_line}"
    yield from elsewhere
    for step in stopped:
        how = "" if ": error: " in step.last_line else "without a word, as if killed; last line: "
        yield f"stopped: {step.log}: {how}{step.last_line}"
    for step in superseded:
        yield f"other settings: {step.kind} in {step.folder}: {step.superseded}; it does not count"
    for line in broken:
        yield f"broken: {line}"
    if steps:
        seconds, unknown = seconds_left(layout, trials)
        about = [f"about {_duration(seconds)} of trainings and queries, one after the other"] if seconds else []
        about += [f"{unknown} trainings and queries whose time is not known yet"] if unknown else []
        yield ""
        yield f"left: {', and '.join(about) or 'less than a second'}"


def _shown(values: list[float | None], digits: int) -> str:
    """The mean of what is there."""
    mean = _mean([value for value in values if value is not None])
    return "-" if mean is None else f"{mean:.{digits}f}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
