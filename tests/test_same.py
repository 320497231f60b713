"""The comparison of two results folders, and the history that it goes by."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import same
from tests.same import compare, declarations, find_base, report

SCORES = "small/digits/entropy/seed1/round1/scores.csv"
CHECKPOINT = "small/digits/entropy/seed1/round1/checkpoint.safetensors"
LOGITS = "small/digits/entropy/seed1/round1/test_logits.npy"
WEIGHTS = {"bias": np.zeros(2, np.float32), "weight": np.ones((2, 3), np.float32)}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two results folders that agree in all that is compared, and differ in some of the rest."""
    old, new = tmp_path / "old", tmp_path / "new"
    (old / SCORES).parent.mkdir(parents=True)
    (old / SCORES).write_text("index,score\n3,0.5\n4,0.25\n")
    save_file(WEIGHTS, old / CHECKPOINT, {"format": "1"})
    np.save(old / LOGITS, WEIGHTS["weight"])
    (old / "tables").mkdir()
    (old / "tables" / "accuracy.csv").write_text("accuracy\n0.5\n")
    shutil.copytree(old, new)
    save_file(WEIGHTS, new / CHECKPOINT, {"format": "2"})
    for name in ("study.yaml", "timings.csv", "tables/time.csv", "tables/accuracy.html"):
        (new / name).write_text("of the new folder alone\n")
    for name in ("settings.json", "query_settings.json", "timing.json", "query_timing.json"):
        (new / SCORES).with_name(name).write_text("{}")
    return old, new


def differences(folders: tuple[Path, Path]) -> dict[str, str]:
    return {name: what for name, what in compare(*folders).items() if what}


def test_equal_numbers_agree_whatever_the_headers_and_times(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (folders[0] / CHECKPOINT).read_bytes() != (folders[1] / CHECKPOINT).read_bytes()
    assert compare(*folders) == dict.fromkeys([CHECKPOINT, SCORES, LOGITS, "tables/accuracy.csv"], "")
    assert report(compare(*folders), [], "abc12345") == 0
    assert capsys.readouterr().out == "same: 4 files agree with abc1234\n"


def test_a_changed_score(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (folders[1] / SCORES).write_text("index,score\n3,0.5\n4,0.250\n")
    assert differences(folders) == {SCORES: "line 3: '4,0.25' became '4,0.250'"}
    assert report(compare(*folders), ["tables/* (other numbers)"], "abc12345") == 1
    out = capsys.readouterr().out
    assert "note: no difference matches the declaration tables/* (other numbers)\n" in out
    assert "\ndifferent: 1 of 4 files differ from abc1234; declare" in out


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("index,score\n3,0.5\n", "line 3: '4,0.25' became ''"),
        ("index,score\n3,0.5\n4,0.25", "line 4: '' became None"),
        ("index,score\r\n3,0.5\n4,0.25\n", "line 1: 'index,score' became 'index,score\\r'"),
    ],
)
def test_lines_that_end_otherwise(folders: tuple[Path, Path], text: str, what: str) -> None:
    (folders[1] / SCORES).write_bytes(text.encode())
    assert differences(folders) == {SCORES: what}


def test_changed_tensors(folders: tuple[Path, Path]) -> None:
    changed = {"bias": WEIGHTS["bias"], "weight": WEIGHTS["weight"].copy()}
    changed["weight"][1, 2] = 0.875
    save_file(changed, folders[1] / CHECKPOINT)
    np.save(folders[1] / LOGITS, changed["weight"])
    assert differences(folders) == {
        CHECKPOINT: "weight: largest absolute difference 0.125",
        LOGITS: "array: largest absolute difference 0.125",
    }
    save_file({"bias": np.zeros(2), "other": WEIGHTS["weight"]}, folders[1] / CHECKPOINT)
    np.save(folders[1] / LOGITS, np.asfortranarray(WEIGHTS["weight"]))
    assert differences(folders) == {
        CHECKPOINT: "bias: float32 (2,) became float64 (2,) (and 2 more tensors)",
        LOGITS: "the header",
    }


def test_a_zero_that_changes_its_sign(folders: tuple[Path, Path]) -> None:
    save_file(WEIGHTS | {"bias": -WEIGHTS["bias"]}, folders[1] / CHECKPOINT)
    assert differences(folders) == {CHECKPOINT: "bias: largest absolute difference 0"}


def test_files_on_one_side_only(folders: tuple[Path, Path]) -> None:
    (folders[0] / SCORES).unlink()
    (folders[1] / LOGITS).unlink()
    assert differences(folders) == {SCORES: "only in the working tree", LOGITS: "only in the base"}


@pytest.mark.parametrize("pattern", ["scores.csv", "*/round1/scores.csv", "small/*"])
def test_a_declared_change(folders: tuple[Path, Path], pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folders[1] / SCORES).unlink()
    assert report(compare(*folders), [f"{pattern} (no longer written)"], "abc12345") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{SCORES}: only in the base [declared: {pattern} (no longer written)]",
        "same: 3 files agree with abc1234, 1 differ as declared",
    ]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of three commits, the last two of which declare changes."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    git(tmp_path, "init", "--quiet", "--initial-branch", "work")
    for message in (
        "Begin\n\nChanges-bytes: before.csv (the base itself does not count)",
        "Pick\n\nWhy.\n\nChanges-bytes: scores.csv (pick)\nChanges-bytes: tables/*.csv (rounded\n to two digits)",
        "Change\n\nChanges-bytes: not.csv (no trailer)\n\nWhy.\n\nReviewed-by: B\nChanges-bytes: scores.csv (pick)",
    ):
        commit(tmp_path, message)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, message: str) -> str:
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def test_declarations_are_the_trailers_after_the_base(repository: Path) -> None:
    assert declarations(repository, "HEAD~2") == ["scores.csv (pick)", "tables/*.csv (rounded to two digits)"]
    assert declarations(repository, "HEAD") == []


def test_the_base(repository: Path) -> None:
    first, second, third = (git(repository, "rev-parse", name) for name in ("HEAD~2", "HEAD~1", "HEAD"))
    assert find_base(repository) == second
    git(repository, "tag", "v1", first)
    assert find_base(repository) == first
    (repository / "file").touch()
    assert find_base(repository) == third, "uncommitted changes are compared with HEAD"
    git(repository, "update-ref", "refs/remotes/origin/main", second)
    assert find_base(repository) == second, "all that is not yet in origin/main is compared"
    git(repository, "update-ref", "refs/remotes/origin/main", third)
    assert find_base(repository) == third
    assert find_base(repository, "v1") == first
    with pytest.raises(SystemExit, match="gone"):
        find_base(repository, "gone")


def test_a_clone_without_history_has_no_base(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), "clone")
    assert find_base(tmp_path / "clone") == ""


def test_a_source_archive_has_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(same, "HOME", tmp_path)
    assert same.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "same: nothing to compare with: there is no git history here, or no git"
    ]
