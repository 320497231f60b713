"""How far a study is, told from its files alone while it runs: nothing is locked, and little is read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lplgrad import locks
from lplgrad.errors import UserError
from lplgrad.files import read_json
from lplgrad.study import Chain, Layout


@dataclass(frozen=True)
class Step:
    """A training or a query that is not done.

    Attributes:
        kind: ``train`` or ``query``.
        folder: of its round.
        log: where it tells of itself.
        running: a process is at it.
        last_line: of the log; empty, if there is none.
    """

    kind: str
    folder: Path
    log: Path
    running: bool
    last_line: str

    @property
    def failed(self) -> bool:
        """It ended, and told why."""
        return not self.running and (": error: " in self.last_line or "Error" in self.last_line)


@dataclass
class Progress:
    """How far a chain is.

    Attributes:
        chain, rounds: which, and how many rounds it has.
        trained: rounds trained.
        queried: rounds queried; the last has no query.
        accuracy: after the last trained round; None before the first.
        seconds_per_label: of that round's training; None where it took none.
        query_seconds: of the last query.
        next: what is to be done next; None at the end.
    """

    chain: Chain
    rounds: int
    trained: int = 0
    queried: int = 0
    accuracy: float | None = None
    train_seconds: float | None = None
    seconds_per_label: float | None = None
    query_seconds: float | None = None
    next: Step | None = field(default=None)


def progress_of(layout: Layout, chain: Chain) -> Progress:
    """How far a chain is. Reads the measurements of its last rounds only.

    Raises:
        UserError: a measurement is broken.
    """
    found = Progress(chain, layout.rounds(chain.budget, chain.dataset))
    for number in range(1, found.rounds + 1):
        if not (Path(layout.trained(chain, number)) / "metrics.json").exists():
            found.next = _step(layout, "train", layout.trained(chain, number))
            break
        found.trained = number
        if number == found.rounds:
            break
        if not (Path(layout.round(chain, number)) / "next_labeled.csv").exists():
            found.next = _step(layout, "query", layout.round(chain, number))
            break
        found.queried = number
    if found.trained:
        folder = Path(layout.trained(chain, found.trained))
        metrics, timing = read_json(folder / "metrics.json"), _read(folder / "timing.json")
        found.accuracy = _number(metrics.get("accuracy"))
        found.train_seconds = _number(timing.get("train_seconds"))
        if found.train_seconds:
            found.seconds_per_label = found.train_seconds / max(1, _number(metrics.get("labels")) or 1)
    if found.queried:
        timing = _read(Path(layout.round(chain, found.queried)) / "query_timing.json")
        found.query_seconds = _number(timing.get("query_seconds"))
    return found


def _step(layout: Layout, kind: str, folder: str) -> Step:
    place = Path(folder)
    log = Path("logs", *place.parts[1:], f"{kind}.log")
    return Step(kind, place, log, locks.is_held(place / f".{kind}.lock"), _last_line(log))


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


def seconds_left(layout: Layout, chains: list[Progress]) -> tuple[float, int]:
    """An estimate of what is left, from measured seconds: training takes time in proportion to the labels, a query
    what the queries before took. A round 1 that strategies share is counted once.

    Returns:
        Seconds of one job after the other, and the number of jobs of which nothing is known yet.
    """
    per_label: dict[tuple[str, str], list[float]] = defaultdict(list)
    per_query: dict[tuple[str, str], list[float]] = defaultdict(list)
    for found in chains:
        key = (found.chain.budget, found.chain.dataset)
        per_label[key] += [found.seconds_per_label] if found.seconds_per_label else []
        per_query[key] += [found.query_seconds] if found.query_seconds is not None else []
    seconds, unknown = 0.0, 0
    counted: set[str] = set()
    for found in chains:
        key = (found.chain.budget, found.chain.dataset)
        size = layout.study.datasets[found.chain.dataset].budgets[found.chain.budget].query_size
        rate = found.seconds_per_label or _mean(per_label[key])
        query = _mean(per_query[key]) if found.query_seconds is None else found.query_seconds
        for number in range(found.trained + 1, found.rounds + 1):
            folder = layout.trained(found.chain, number)
            if folder not in counted:
                counted.add(folder)
                seconds += (rate or 0) * number * size
                unknown += rate is None
        queries = found.rounds - 1 - found.queried
        seconds += (query or 0) * queries
        unknown += queries * (query is None)
    return seconds, unknown


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def report(layout: Layout) -> Iterator[str]:
    """The lines of a report."""
    chains, broken = [], []
    for chain in layout.chains():
        try:
            chains.append(progress_of(layout, chain))
        except UserError as error:
            broken.append(str(error))
    done = sum(found.next is None for found in chains)
    yield f"{layout.study.study}: {done} of {len(chains) + len(broken)} chains are done"
    groups: dict[tuple[str, str], dict[str, list[Progress]]] = defaultdict(lambda: defaultdict(list))
    for found in chains:
        groups[found.chain.budget, found.chain.dataset][found.chain.strategy].append(found)
    width = max(len(name) for name in layout.study.run.strategies) + 2
    for (budget, dataset), strategies in groups.items():
        rounds = layout.rounds(budget, dataset)
        yield ""
        yield f"{budget}/{dataset}, {rounds} rounds"
        yield f"  {'strategy':<{width}}{'accuracy':>8}  {'s/training':>10}  {'s/query':>8}  rounds trained, by seed"
        for strategy, found_ones in strategies.items():
            yield (
                f"  {strategy:<{width}}{_shown([one.accuracy for one in found_ones], 4):>8}  "
                f"{_shown([one.train_seconds for one in found_ones], 1):>10}  "
                f"{_shown([one.query_seconds for one in found_ones], 2):>8}  "
                + " ".join(str(one.trained) for one in found_ones)
            )
    steps = {step.folder / step.kind: step for step in (found.next for found in chains) if step is not None}
    running = [step for step in steps.values() if step.running]
    failed = [step for step in steps.values() if step.failed]
    stopped = [step for step in steps.values() if step.last_line and not step.running and not step.failed]
    if running or failed or stopped or broken:
        yield ""
    for step in running:
        epoch = re.match(r"epoch \d+/\d+", step.last_line)
        yield f"running: {step.kind} in {step.folder}{f', {epoch[0]}' if epoch else ''}"
    for step in failed:
        yield f"failed: {step.log}: {step.last_line}"
    for step in stopped:
        yield f"stopped: {step.log}: without a word, as if killed; last line: {step.last_line}"
    for line in broken:
        yield f"broken: {line}"
    if steps:
        seconds, unknown = seconds_left(layout, chains)
        more = f", and {unknown} jobs of which nothing is measured yet" if unknown else ""
        yield ""
        yield f"left: about {_duration(seconds)} of one job after the other{more}"


def _shown(values: list[float | None], digits: int) -> str:
    """The mean of what is there."""
    mean = _mean([value for value in values if value is not None])
    return "-" if mean is None else f"{mean:.{digits}f}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
