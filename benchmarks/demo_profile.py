"""python -m benchmarks.demo_profile results/demo logs/demo: how much of a study's processor time was work.

Work is what the jobs timed themselves: training, testing and querying, on one thread (timing.json and
query_timing.json). The total is the processor time of all jobs, which the fork server writes next to their logs. The
offer is what all cores could have done from the start of the first job to the end of the last one; it also contains
Snakemake, its shells, the server's imports and idle cores. Run the study without interruption, on a quiet machine.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

TIMED = {
    "train": ("timing.json", ("train_seconds", "test_seconds")),
    "query": ("query_timing.json", ("query_seconds",)),
}


def main(results: Path, logs: Path) -> None:
    """Print processor seconds and work by kind of job, and the share of work in the offer."""
    total: dict[str, float] = defaultdict(float)
    starts, ends = [], []
    for file in logs.rglob("*.tsv"):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                total[file.stem if file.stem in TIMED else "all others"] += float(row["cpu_time"])
                ends.append(file.stat().st_mtime)
                starts.append(ends[-1] - float(row["s"]))
    if not ends:
        sys.exit(f"{logs}: no job has a .tsv next to its log; was the study run with the fork server?")
    work: dict[str, float] = defaultdict(float)
    for kind, (name, keys) in TIMED.items():
        for file in results.rglob(name):
            timing = json.loads(file.read_text())
            work[kind] += sum(timing.get(key) or 0.0 for key in keys)
    for kind in (*TIMED, "all others"):
        print(f"{kind:12} {total[kind]:8.1f} core-seconds, of which work {work[kind]:8.1f}")
    elapsed, cores = max(ends) - min(starts), os.cpu_count() or 1
    done = sum(work.values())
    print(f"{'jobs':12} {sum(total.values()):8.1f} core-seconds, of which work {done / sum(total.values()):8.1%}")
    print(f"{'offer':12} {elapsed * cores:8.1f} core-seconds, of which work {done / (elapsed * cores):8.1%}")
    print(f"{'elapsed':12} {elapsed:8.1f} s from the first to the last of {len(ends)} jobs, on {cores} cores")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
