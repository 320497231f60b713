"""A study in portions on another machine: what travels, what comes back, and that it is as if run in one piece."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lplgrad.errors import UserError
from lplgrad.portions import chains, pack, run
from lplgrad.portions.merge import merge
from tests.test_workflow import copy_project, jobs, rounds, snakemake

HOME = Path(__file__).parents[1]
# Two strategies of a recipe, so that they share their start; a model is looked into, so that this comes back too.
STUDY = """
study: portions
title: In two portions
run: {budgets: [small], datasets: [digits], strategies: [entropy, random], seeds: [1]}
model_figures:
  {budgets: [small], datasets: [digits], strategies: [entropy], rounds: [2], unlabeled_images: 9, embedded_images: 9}
datasets:
  digits:
    title: Digits (8x8)
    source: digits
    model: {name: small_resnet, width: 4}
    training: {epochs: 1, batch_size: 32, learning_rate: 0.05, milestones: []}
    budgets:
      small: {query_size: 10, candidates: 60, labels: 20}
"""
FIRST, SECOND = "small/digits/entropy/seed1", "small/digits/random/seed1"
# What only tables and figures need does not travel: importing it fails there.
WITHOUT = (
    "import pkgutil, sys\n"
    "for name in ('pandas', 'sklearn', 'scipy', 'matplotlib', 'seaborn'):\n    sys.modules[name] = None\n"
    # A plugin of Snakemake's that is here for the tests on SLURM, and would import pandas.
    "there = pkgutil.iter_modules\n"
    "pkgutil.iter_modules = lambda *of: (one for one in there(*of) if one.name != 'snakemake_executor_plugin_slurm')\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project that we are in: what the verbs read of it, and a study that is packed."""
    for name in ("Snakefile", "config.yaml", "src", "workflow"):
        (tmp_path / name).symlink_to(HOME / name)
    (tmp_path / "study.yaml").write_text(STUDY)
    data = tmp_path / "data" / "digits"
    data.mkdir(parents=True)
    (data / "dataset.json").write_text('{"splits": {"train": 1}}')
    monkeypatch.chdir(tmp_path)
    pack.pack(["study.yaml"], no_wheels=True)
    return tmp_path


@pytest.fixture
def adopted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Without Snakemake: the strategies of the chains that it was told to take."""
    told: list[str] = []
    monkeypatch.setattr("lplgrad.portions.merge.adopt", lambda _f, _l, found: told.extend(c.strategy for c in found))
    return told


@pytest.fixture
def archive(project: Path) -> Callable[[str], Path]:
    """Make a chain's archive there, of files that say their name; they are not left behind."""

    def make(name: str) -> Path:
        layout = chains.read(["study.yaml"])
        chain = chains.in_turn(layout)[name]
        for file in chains.files_of(layout, chain):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(file)
        run.write_archive(layout, chain, name, chains.plan()["todo"][name], project / "out")
        shutil.rmtree("results")
        return project / "out" / f"portions-{name.replace('/', '-')}.tar.xz"

    return make


def add(path: Path, name: str, content: bytes = b"x", **others: Any) -> None:
    """Another file in an archive, or another of its name."""
    with tarfile.open(path) as archive:
        kept = [
            (entry, file.read()) for entry in archive if (file := archive.extractfile(entry)) and entry.name != name
        ]
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in others.items():
        setattr(entry, key, value)
    with tarfile.open(path, "w:xz") as archive:
        for info, data in [*kept, (entry, content)]:
            archive.addfile(info, io.BytesIO(data))


class TestMerge:
    def test_what_is_there_is_told(
        self, archive: Callable[[str], Path], adopted: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        merge([archive(FIRST)])
        said = capsys.readouterr().out
        assert f"merged {FIRST}; 1 of 2 chains are complete\nmissing: {SECOND}\n" in said
        assert "lplgrad report config.yaml study.yaml --partial" in said
        name = "results/portions/small/digits/entropy/seed1/round2/metrics.json"
        assert Path(name).read_text() == name
        pack.pack(["study.yaml"], no_wheels=True)
        assert list(chains.plan()["todo"]) == [SECOND]
        shutil.move("results", "aside")
        second = archive(SECOND)
        shutil.move("aside", "results")
        merge([second])
        assert "tables and figures: snakemake --configfile study.yaml\n" in capsys.readouterr().out
        assert adopted == ["entropy", "random"]

    @pytest.mark.parametrize(
        ("name", "others"),
        [
            ("../escaped", {}),
            ("/tmp/escaped", {}),
            ("results/portions/small/digits/lplgrad/seed1/round2/metrics.json", {}),
            ("results/portions/link", {"type": tarfile.SYMTYPE, "linkname": "/", "size": 0}),
        ],
    )
    def test_only_what_is_of_the_chain(
        self, archive: Callable[[str], Path], adopted: list[str], name: str, others: dict[str, Any]
    ) -> None:
        path = archive(FIRST)
        add(path, name, **others)
        with pytest.raises(UserError, match=f"holds '{name}', which is no result of {FIRST}"):
            merge([path])
        assert not Path("results").exists()
        assert not adopted

    def test_all_of_it(self, archive: Callable[[str], Path], adopted: list[str]) -> None:
        layout = chains.read(["study.yaml"])
        whole, path = archive(SECOND), archive(FIRST)
        lost = chains.files_of(layout, chains.in_turn(layout)[FIRST])[-1]
        with tarfile.open(path) as old, tarfile.open("cut.tar.xz", "w:xz") as new:
            for entry in old:
                if entry.name != lost:
                    new.addfile(entry, old.extractfile(entry))
        with pytest.raises(UserError, match=f"lacks {lost}"):
            merge([whole, Path("cut.tar.xz")])
        assert not Path("results").exists(), "one broken archive keeps the others out too"
        assert not adopted

    def test_another_content_is_never_overwritten(self, archive: Callable[[str], Path], adopted: list[str]) -> None:
        """The start is shared, so that it comes with each chain: it must be the same to the byte, but for its times."""
        shared = "results/portions/small/digits/start/seed1/plain"
        first, second = archive(FIRST), archive(SECOND)
        add(second, f"{shared}/timing.json", b"slower")
        merge([first, second])
        assert Path(f"{shared}/timing.json").read_text() == f"{shared}/timing.json"
        shutil.rmtree("results/portions/small/digits/random")
        add(second, f"{shared}/metrics.json", b"other")
        with pytest.raises(UserError, match=f"{shared}/metrics.json differs from what is here already"):
            merge([second])
        assert not Path("results/portions/small/digits/random").exists()
        assert adopted == ["entropy", "random"]

    def test_two_archives_that_differ(self, archive: Callable[[str], Path], adopted: list[str]) -> None:
        first, second = archive(FIRST), archive(SECOND)
        add(second, "results/portions/small/digits/start/seed1/labeled.csv", b"other")
        with pytest.raises(UserError, match="differs"):
            merge([first, second])
        assert not Path("results").exists()
        assert not adopted

    def test_other_settings(self, archive: Callable[[str], Path]) -> None:
        path = archive(FIRST)
        Path("study.yaml").write_text(STUDY.replace("epochs: 1", "epochs: 2"))
        with pytest.raises(UserError, match="made with other settings or other code"):
            merge([path])

    def test_more_seeds_change_nothing(self, archive: Callable[[str], Path], adopted: list[str]) -> None:
        path = archive(FIRST)
        Path("study.yaml").write_text(STUDY.replace("seeds: [1]", "seeds: [1, 2]"))
        merge([path])
        assert adopted == ["entropy"]

    @pytest.mark.parametrize("cut", [0, 20, 200])
    def test_a_broken_archive(self, archive: Callable[[str], Path], cut: int) -> None:
        path = archive(FIRST)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UserError, match="not an archive of a portion, or cut off"):
            merge([path])

    def test_other_images_are_refused(self, archive: Callable[[str], Path], adopted: list[str]) -> None:
        path = archive(FIRST)
        Path("data/digits/dataset.json").write_text('{"splits": {"train": 2}}')
        with pytest.raises(UserError, match="images of digits were decoded to other pixels there than here"):
            merge([path])
        assert not adopted


class TestPack:
    def test_too_much(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pack, "LIMIT", 1000)
        with pytest.raises(UserError, match=r"together .* MiB, more than"):
            pack.pack(["study.yaml"], no_wheels=True)

    def test_changed_images_are_packed_anew(self, project: Path) -> None:
        (before,) = (project / ".portion/images").iterdir()
        pack.pack(["study.yaml"], no_wheels=True)
        assert list((project / ".portion/images").iterdir()) == [before]
        (project / "data/digits/more.npy").write_text("")
        pack.pack(["study.yaml"], no_wheels=True)
        (after,) = (project / ".portion/images").iterdir()
        assert after != before

    @pytest.mark.parametrize(
        ("path", "words"), [("/elsewhere", "must lie in"), ("../elsewhere", "must lie in"), ("nowhere", "is not there")]
    )
    def test_images_that_cannot_travel(self, project: Path, path: str, words: str) -> None:
        Path("study.yaml").write_text(STUDY.replace("source: digits", f"source: image_folder\n    path: {path}"))
        shutil.rmtree("data")
        with pytest.raises(UserError, match=f"{path} {words}"):
            pack.pack(["study.yaml"], no_wheels=True)

    def test_packages_are_pinned_with_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is carried is all that is needed but what the other machine has, or what only figures need."""
        monkeypatch.chdir(HOME)
        entries = pack.pinned_packages().split("\n    --hash")[0].splitlines() + pack.pinned_packages().splitlines()
        names = {line.partition("==")[0] for line in entries if "==" in line and not line.startswith(" ")}
        assert names == pack.carried_packages()
        assert {"pydantic", "pydantic-core", "pyyaml", "safetensors", "snakemake", "tqdm"} <= names
        assert not names & {"torch", "numpy", "pandas", "matplotlib"}


def finish(command: list[str], clock: Iterator[int]) -> bool:
    """In Snakemake's place: make the files that it was asked for, in 300 seconds."""
    for name in command:
        if name.startswith("results/"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(name)
    next(clock)
    next(clock)
    return True


class TestRun:
    def test_what_is_too_large_comes_back_in_pieces(
        self, archive: Callable[[str], Path], adopted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run, "LIMIT", 500)
        whole = archive(FIRST)
        pieces = sorted(Path("out").iterdir())
        assert len(pieces) > 1
        assert not whole.exists()
        assert all(piece.stat().st_size <= 500 for piece in pieces)
        whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
        merge([whole])
        assert adopted == ["entropy"]

    def test_jobs_are_told_and_ended_when_the_time_is_spent(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logs = project / "logs" / "portions"
        (logs / "seed1").mkdir(parents=True)
        job = "import pathlib, time; p = pathlib.Path('logs/portions/seed1/train.tsv'); "
        job += "p.write_text('s\\th:m:s\\n12.5\\t0:00:12\\n'); "
        environment = dict(os.environ)
        clock = run.Clock(minutes=1)
        assert run.watch([sys.executable, "-c", job], logs, environment, clock)
        assert "seed1/train: 12.5 s" in capsys.readouterr().out
        endless = [sys.executable, "-c", "import signal; signal.pause()"]
        assert not run.watch(endless, logs, environment, run.Clock(minutes=0.01))
        assert "train" not in capsys.readouterr().out, "it was there before"

    def test_a_chain_that_would_not_fit_is_left(
        self, project: Path, archive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second chain is begun only if the time that the first one took is left."""
        for minutes, count in ((20, 2), (9, 1)):
            shutil.rmtree("out", ignore_errors=True)
            shutil.rmtree("results", ignore_errors=True)
            clock = iter(range(0, 10**6, 100))
            monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda clock=clock: next(clock)))
            monkeypatch.setattr(run, "watch", lambda command, *_, clock=clock: finish(command, clock))
            run.run(project / "out", minutes=minutes)
            assert len(list((project / "out").iterdir())) == count

    def test_other_code_than_was_packed(self, project: Path) -> None:
        (project / "Snakefile").unlink()
        (project / "Snakefile").write_text("changed")
        with pytest.raises(UserError, match="pack again"):
            run.run(project / "out")

    def test_without_a_plan(self, project: Path) -> None:
        shutil.rmtree(".portion")
        with pytest.raises(UserError, match="it is made by `pack`"):
            run.run(project / "out")


def portions(project: Path, *arguments: str, status: int = 0) -> str:
    """Call a verb in a project, with that project's code."""
    done = subprocess.run(
        [sys.executable, "-m", "lplgrad.portions", *arguments], cwd=project, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{project / 'src'}:{project / 'without'}"},
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def folder_of_images(folder: Path) -> Path:
    """100 images to train on and 20 to test, of two classes that differ in brightness."""
    draw = np.random.default_rng(1)
    for split, count in (("train", 50), ("test", 10)):
        for brightness in (60, 120):
            (folder / split / str(brightness)).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 2 * brightness, size=(8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / str(brightness) / f"{number}.png")
    return folder


def there(here: Path, place: Path) -> Path:
    """Another machine: a copy of the project with what was packed, and without what is not carried."""
    copy_project(place)
    shutil.copy(here / "study.yaml", place)
    shutil.copytree(here / ".portion", place / ".portion")
    (place / "without").mkdir()
    (place / "without" / "sitecustomize.py").write_text(WITHOUT)
    return place


@pytest.mark.slow
def test_two_portions_are_the_study(tmp_path: Path) -> None:
    """The same bytes as in one piece, which Snakemake takes for its own: it trains nothing anew, but after a change."""
    here = copy_project(tmp_path / "here")
    study = STUDY.replace("source: digits", "source: image_folder\n    path: data/downloads/images")
    (here / "study.yaml").write_text(study)
    (here / "data" / "downloads").mkdir(parents=True)
    (here / "data" / "downloads" / "images").symlink_to(folder_of_images(tmp_path / "images"))
    undisturbed = Path(shutil.copytree(here, tmp_path / "undisturbed", symlinks=True))
    for number, name in ((1, FIRST), (2, SECOND)):
        assert f"{3 - number} chain(s) to run" in portions(here, "pack", "study.yaml", "--no-wheels")
        other = there(here, tmp_path / f"there{number}")
        said = portions(other, "run", "--output", "out", "--at-most", "1")
        assert f"{name}/round2/train: " in said
        assert f"complete: {name}\n" in said
        (archive,) = (other / "out").iterdir()
        said = portions(here, "merge", str(archive))
        assert f"{number} of 2 chains are complete" in said
    assert not list(here.rglob("*.safetensors"))

    measurements = "results/portions/measurements.csv"
    features = "results/portions/small/digits/entropy/seed1/round2/features.npy"
    assert rounds(jobs(here, config="study.yaml")) == {}
    snakemake(here, measurements, config="study.yaml")
    snakemake(undisturbed, measurements, features, config="study.yaml")
    chain_files = [path.relative_to(here) for path in (here / "results").rglob("*") if path.is_file()]
    assert len(chain_files) == 29
    differing = [
        str(path)
        for path in chain_files
        if path.name not in chains.TIMES and (here / path).read_bytes() != (undisturbed / path).read_bytes()
    ]
    assert differing == []

    (here / "study.yaml").write_text(study.replace("epochs: 1", "epochs: 2"))
    assert rounds(jobs(here, config="study.yaml"))["train_start"] == 1
