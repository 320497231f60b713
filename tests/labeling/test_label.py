"""``lplgrad label``: answers from files, tasks, half a batch; and the page through the command itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.labeling.loop import Call, Loop, photos
from tests.runs import HOME


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call) -> Loop:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    shutil.copy(HOME / "config.yaml", tmp_path)
    loop = Loop(lplgrad)
    loop.begin()
    return loop


Label = Callable[..., tuple[int, str]]


@pytest.fixture
def label(loop: Loop, lplgrad: Call) -> Label:
    return lambda *arguments: lplgrad("label", "photos.yaml", *arguments)


def test_answers_from_a_table(loop: Loop, label: Label) -> None:
    asked = [row["file"] for row in loop.rows()]
    Path("mine.csv").write_text(f"file;label;note\r\n{asked[0]};cat;sure\r\n{asked[2]};?;\r\n")
    assert label("--import", "mine.csv")[0] == 0
    assert [row["label"] for row in loop.rows()] == ["cat", "", "?", ""]
    Path("mine.csv").write_text(f"file,label\n{asked[1]},dog\n{asked[0]},owl\n")
    status, said = label("--import", "mine.csv")
    assert status == 1
    assert f"mine.csv: line 3: '{asked[0]}' is labelled 'owl', but 'cat' before; correct one of them" in said
    assert [row["label"] for row in loop.rows()] == ["cat", "", "?", ""]


def test_tasks_and_answers_of_label_studio(loop: Loop, label: Label) -> None:
    assert label("--tasks", "tasks.json")[0] == 0
    tasks = json.loads(Path("tasks.json").read_text())
    assert [task["data"]["file"] for task in tasks] == [row["file"] for row in loop.rows()]
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d=photos/{loop.rows()[0]['file']}"
    for path in ("tasks.json", "labels/photos/round1.csv", "tasks.xml"):
        status, said = label("--tasks", path)
        assert status == 1
        assert f"--tasks: {path}: name a new file that ends in .json" in said
    assert label("--tasks", "new.json", "--finish")[0] == 1
    assert '<Choice value="owl"' in Path("tasks.xml").read_text()
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    export = [{**task, "annotations": [{"result": [region], "was_cancelled": False}]} for task in tasks[:3]]
    Path("export.json").write_text(json.dumps(export))
    assert label("--import", "export.json")[0] == 0
    assert [row["label"] for row in loop.rows()] == ["dog", "dog", "dog", ""]
    assert label("--finish")[0] == 0
    assert [row["label"] for row in loop.rows()] == ["dog", "dog", "dog", "-"]


def test_the_page_shows_what_was_placed_into_folders(loop: Loop, label: Label) -> None:
    """The page itself is tested in ``test_page``; here the command starts it."""
    moved, renamed = (row["file"] for row in loop.rows()[:2])
    shutil.move(Path("photos", moved), "photos/labeled/owl/moved.png")
    content = Path("photos", renamed).read_bytes()
    shutil.move(Path("photos", renamed), "photos/unlabeled/elsewhere.png")
    command = [sys.executable, "-m", "lplgrad", "label", "photos.yaml", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(HOME / "src")}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        url = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/\?(token=\S+)\n", server.stdout.readline())
        assert url is not None

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"{url[1]}{path}?{url[2]}") as answer:
                return bytes(answer.read())

        assert json.loads(get("/answers"))["answers"] == ["owl", "", "", ""]
        assert get("/image/1") == content
        assert json.loads(get("/batch"))["then"] == "snakemake --configfile photos.yaml"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        server.communicate()


def test_there_must_be_something_to_label(loop: Loop, label: Label, lplgrad: Call) -> None:
    shutil.rmtree("results")
    status, said = label()
    assert status == 1
    assert "no images wait for a label; run Snakemake with photos.yaml first" in said
    status, said = lplgrad("label", HOME / "demo.yaml")
    assert status == 1
    assert "no data set that runs has oracle: person" in said
