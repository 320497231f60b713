"""Prove that a change alters no number (`make same`).

The tiny study runs twice: with all files of a base commit, and with all files of the working tree. Labels, scores,
logits, metrics, checkpoints and tables must agree. An intended change is declared in a trailer of any commit after the
base: ``Changes-bytes: scores.csv (reason)``. The first word is a pattern for a file's name, or for its path below the
study's folder.

The environment variable BASE names the base. Without it, the base is the first of these that exists:
- where HEAD left its upstream branch, origin/HEAD, origin/main or main, unless that is HEAD itself;
- HEAD, if the working tree has uncommitted changes;
- the newest tag before HEAD;
- the commit before HEAD.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.runs import HOME, TINY, copy_project

# Times, pages and figures of what is compared anyway, and copies of the configuration.
NOT_COMPARED = re.compile(
    r"(^|/)(study\.yaml|(query_)?settings\.json|(query_)?timing\.json|timings\.csv)$|^tables/time|^figures/|\.html$"
)


def git(folder: Path, *arguments: str, optional: bool = False) -> str:
    """Return what git prints. If it fails, return nothing where that is allowed, and end the program elsewhere."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode and not optional:
        raise SystemExit(f"same: git {' '.join(arguments)}: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout.strip()


def find_base(folder: Path, wanted: str | None = None) -> str:
    """Return the commit to compare with, by the rule above; nothing if the history has none."""
    if wanted:
        return git(folder, "rev-parse", "--verify", f"{wanted}^{{commit}}")
    head = git(folder, "rev-parse", "HEAD")
    for branch in ("@{upstream}", "origin/HEAD", "origin/main", "main"):
        left = git(folder, "merge-base", "HEAD", branch, optional=True)
        if left and left != head:
            return left
    if git(folder, "status", "--porcelain"):
        return head
    before = git(folder, "describe", "--tags", "--abbrev=0", "HEAD~1", optional=True) or "HEAD~1"
    return git(folder, "rev-parse", "--verify", f"{before}^{{commit}}", optional=True)


def declarations(folder: Path, base: str) -> list[str]:
    """Return the declared changes of all commits between the base and HEAD: a pattern and a reason each."""
    lines = git(folder, "log", "--format=%(trailers:key=Changes-bytes,valueonly,unfold)", f"{base}..HEAD").split("\n")
    return list(dict.fromkeys(filter(None, lines)))


def difference(old: Path, new: Path) -> str:
    """Return what differs between two files; nothing if they agree. The header of a checkpoint does not count."""
    if not (old.is_file() and new.is_file()):
        return "only in the working tree" if new.is_file() else "only in the base"
    if old.read_bytes() == new.read_bytes():
        return ""
    if old.suffix not in (".npy", ".safetensors"):
        lines = (path.read_bytes().decode(errors="backslashreplace").split("\n") for path in (old, new))
        pairs = enumerate(zip_longest(*lines), 1)
        return next(f"line {number}: {one!r} became {other!r}" for number, (one, other) in pairs if one != other)
    before, after = (
        load_file(path) if path.suffix == ".safetensors" else {"array": np.load(path)} for path in (old, new)
    )
    found = []
    for name in dict.fromkeys([*before, *after]):
        kinds = [f"{a[name].dtype} {a[name].shape}" if name in a else "nothing" for a in (before, after)]
        if kinds[0] != kinds[1]:
            found.append(f"{name}: {kinds[0]} became {kinds[1]}")
        elif before[name].tobytes() != after[name].tobytes():
            largest = np.abs(before[name].astype(np.float64) - after[name].astype(np.float64)).max()
            found.append(f"{name}: largest absolute difference {largest:.3g}")
    if not found:
        return "the header" if old.suffix == ".npy" else ""
    return found[0] + (f" (and {len(found) - 1} more tensors)" if found[1:] else "")


def compare(old: Path, new: Path) -> dict[str, str]:
    """Return what differs for every compared file below two folders; nothing for a file that agrees."""
    names = {path.relative_to(root).as_posix() for root in (old, new) for path in root.rglob("*") if path.is_file()}
    return {name: difference(old / name, new / name) for name in sorted(names) if not NOT_COMPARED.search(name)}


def report(compared: dict[str, str], declared: list[str], base: str) -> int:
    """Print what differs. Return the exit status: 1 if a difference is not declared."""
    different = {name: what for name, what in compared.items() if what}
    undeclared, unused = 0, dict.fromkeys(declared)
    for name, what in different.items():
        matching = [line for line in declared if any(fnmatchcase(n, line.split()[0]) for n in (name, Path(name).name))]
        undeclared += not matching
        print(f"{name}: {what}", *(f"[declared: {line}]" for line in matching))
        for line in matching:
            unused.pop(line, None)
    for line in unused:
        print(f"note: no difference matches the declaration {line}")
    if undeclared:
        print(
            f"different: {undeclared} of {len(compared)} files differ from {base[:7]}; "
            'declare an intended change with the commit trailer "Changes-bytes: <file> (<reason>)"'
        )
        return 1
    changed = f", {len(different)} differ as declared" if different else ""
    print(f"same: {len(compared) - len(different)} files agree with {base[:7]}{changed}")
    return 0


def run_studies(*projects: Path) -> None:
    """Run the tiny study of each project with its own code, side by side. End the program if one fails."""
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--notemp", "--configfile", TINY]
    processes = []
    for project in projects:
        environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
        with project.with_suffix(".log").open("w") as log:
            processes.append(subprocess.Popen(command, cwd=project, stdout=log, stderr=log, env=environment))
    try:
        statuses = [process.wait() for process in processes]
    finally:  # after Control-C Snakemake waits for its jobs, which write into the folders
        for process in processes:
            process.wait()
    for project, status in zip(projects, statuses, strict=True):
        if status:
            print(*project.with_suffix(".log").read_text(errors="replace").splitlines()[-30:], sep="\n")
            raise SystemExit(f"same: the tiny study of the {project.name} fails")


def main() -> int:
    """Compare the working tree with the base."""
    if not (shutil.which("git") and (HOME / ".git").exists()):
        print("same: nothing to compare with: there is no git history here, or no git")
        return 0
    base = find_base(HOME, os.environ.get("BASE"))
    if not base:
        print("same: nothing to compare with: this clone has no commit before HEAD")
        return 0
    declared = declarations(HOME, base)
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder, "base"), copy_project(Path(folder, "tree"))
        git(HOME, "worktree", "add", "--detach", str(old), base)
        try:
            run_studies(old, new)
            compared = compare(*(next((project / "results").iterdir()) for project in (old, new)))
        finally:
            git(HOME, "worktree", "remove", "--force", str(old))
    return report(compared, declared, base)


if __name__ == "__main__":
    sys.exit(main())
