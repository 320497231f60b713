"""Files that are written atomically, and what killed processes leave of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lplgrad.machine.files import _host, write_text


def left_by(path: Path, number: int) -> Path:
    """A temporary file of a process."""
    left = path.with_name(f".{path.name}.{_host()}.{number}.tmp")
    left.write_text("half")
    return left


def test_files_of_processes_that_ended_are_removed_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    zombie = os.fork()
    if not zombie:
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)  # it has ended, but its number stays
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    files = [left_by(path, number) for number in (int(gone.stdout), zombie, living.pid)]
    other = left_by(tmp_path / "other.csv", int(gone.stdout))
    write_text(path, "whole")
    assert [file.exists() for file in files] == [False, False, True]
    assert other.exists()
    living.communicate(b"\n")
    os.waitpid(zombie, 0)
    write_text(path, "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == [other.name, "scores.csv"]
