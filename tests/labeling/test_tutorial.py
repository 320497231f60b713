"""The tutorial: its commands run as they are written, and print what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lplgrad.study.reading import read_study
from tests.runs import HOME, copy_project, jobs, snakemake

pytestmark = pytest.mark.slow
PAGE = HOME / "docs" / "labeling.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SCRIPTS = ["photos.py", "person.py"]  # the names of the page's scripts, in order; the first runs at once
CONFIGURATIONS = ["photos.yaml", "photographs.yaml", "photos_benchmark.yaml"]


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", " ".join(text.split()))


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which a user has followed the page."""
    project = copy_project(tmp_path_factory.mktemp("tutorial"))
    scripts, configurations, said = iter(SCRIPTS), iter(CONFIGURATIONS), ""
    environment = {
        **os.environ,
        "PYTHONPATH": str(project / "src"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "yaml":
            (project / next(configurations)).write_text(text)
        if language == "python":
            (project / next(scripts)).write_text(text)
        if language == "text":
            place = 0
            for line in filter(None, text.splitlines()):
                found = without_numbers(said).find(without_numbers(line), place)
                assert found >= 0, f"not printed: {line}\n{said}"
                place = found
        command = text if language == "sh" else f"python {SCRIPTS[0]}" if text.startswith("import csv\nfrom") else ""
        if command:
            done = subprocess.run(
                ["bash", "-euc", command], cwd=project, env=environment, capture_output=True, text=True
            )
            said = done.stdout + done.stderr
            assert done.returncode == 0, said
    return project


def test_nothing_trains_twice(tutorial: Path) -> None:
    """The page has run two rounds. A third trains and queries once, and then nothing is left to do."""
    assert jobs(tutorial, config="photos.yaml") == {}
    subprocess.run([sys.executable, "person.py", "labels/photos/round2.csv"], cwd=tutorial, check=True)
    expected = {"answers": 1, "train_kept": 1, "query": 1, "measurements": 1, "timings": 1, "review": 1}
    assert jobs(tutorial, config="photos.yaml") == expected
    said = snakemake(tutorial, config="photos.yaml")
    assert "50 images wait for a label: labels/photos/round3.csv" in said
    assert jobs(tutorial, config="photos.yaml") == {}
    root = tutorial / "results" / "photos" / "next" / "photos"
    assert (root / "margin/seed1/round3/checkpoint.safetensors").exists()
    assert not (root / "margin/seed1/round2/checkpoint.safetensors").exists()


def test_other_settings_train_again_and_ask_again(tutorial: Path) -> None:
    """What was labelled stays as it is, and answers in the table of the old query count."""
    labels = {path: path.read_bytes() for path in tutorial.glob("results/photos/**/*labeled.csv")}
    table = tutorial / "labels/photos/round3.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[1].replace(",,", ",?,", 1), *lines[2:]]) + "\n")
    answered = table.read_bytes()
    other = (tutorial / "photos.yaml").read_text().replace("epochs: 15", "epochs: 4").replace("[12]", "[3]")
    (tutorial / "other.yaml").write_text(other)
    found = jobs(tutorial, config="other.yaml")
    assert {rule: found[rule] for rule in ("train_start", "train", "train_kept", "query")} == {
        "train_start": 1, "train": 1, "train_kept": 1, "query": 1
    }  # fmt: skip
    assert not {"prepare", "start", "answers"} & found.keys()
    snakemake(tutorial, config="other.yaml")
    assert {path: path.read_bytes() for path in labels} == labels
    assert table.read_bytes() == answered
    assert (tutorial / "labels/photos/round3_2.csv").exists()


def test_the_report_shows_the_review(tutorial: Path) -> None:
    review = (tutorial / "results/photos/review/review.html").read_text()
    for words in ("Labels by class", "Do more labels pay off?", "Confused classes", "Suspicious labels", "images wait"):
        assert words in review
    assert review.count("data:image/png;base64,") >= 50


def test_the_benchmark_is_a_study(tutorial: Path) -> None:
    study = read_study([HOME / "config.yaml", tutorial / "photos_benchmark.yaml"])
    assert study.person is None
    snakemake(tutorial, "data/photos_labeled/dataset.json", config="photos_benchmark.yaml")
