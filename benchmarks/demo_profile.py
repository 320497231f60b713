"""python -m benchmarks.demo_profile results/demo logs/demo: how much of a finished study's core-seconds was work.

Work is what the jobs timed themselves (training, testing, querying: timing.json and query_timing.json, on one thread);
the total is the processor time that Snakemake's benchmark files tell of every job.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path


def main(results: Path, logs: Path) -> None:
    """Print the shares, by kind of job."""
    total: dict[str, float] = defaultdict(float)
    for file in logs.rglob("*.tsv"):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                total[file.stem if file.stem in ("train", "query") else "all others"] += _number(row["cpu_time"])
    work: dict[str, float] = defaultdict(float)
    for kind, name, keys in (
        ("train", "timing.json", ("train_seconds", "test_seconds")),
        ("query", "query_timing.json", ("query_seconds",)),
    ):
        for file in results.rglob(name):
            told = json.loads(file.read_text())
            work[kind] += sum(told.get(key) or 0.0 for key in keys)
    for kind in ("train", "query", "all others"):
        print(f"{kind:12} {total[kind]:8.1f} core-seconds, of them work {work[kind]:8.1f}")
    everything = sum(total.values())
    if everything:
        print(f"{'together':12} {everything:8.1f} core-seconds, of them work {sum(work.values()) / everything:8.1%}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # a job too short to be looked at
        return 0.0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
