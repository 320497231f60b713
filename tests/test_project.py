"""What lies beside the code: environments, lock, schema, profile, and the shell that runs jobs."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from shlex import quote
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement

from lplgrad.study.schema import schema

HOME = Path(__file__).parents[1]


def locked(python: str) -> dict[str, str]:
    """The versions that the lock names for a Python on Linux."""
    environment = {name: str(value) for name, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    pins = {}
    for line in (HOME / "requirements.lock").read_text().splitlines():
        found = re.fullmatch(r"([\w.-]+)==(\S+)(?: ; (.+?))? \\", line)
        if found and (found[3] is None or Marker(found[3]).evaluate(environment)):
            assert found[1] not in pins, f"{found[1]} is locked twice for Python {python}"
            pins[found[1].lower()] = found[2]
    return pins


def test_the_environment_of_the_rules_is_the_lock() -> None:
    """What to do if this fails: write into envs/lplgrad.yaml what it expects."""
    environment = yaml.safe_load((HOME / "envs" / "lplgrad.yaml").read_text())
    *packages, pip = environment["dependencies"]
    (python,) = [package.partition("=")[2] for package in packages if package.startswith("python=")]
    pins = locked(python)
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    needed = [Requirement(line).name.lower() for line in project["dependencies"]]
    assert pip["pip"] == [f"{name}=={pins[name]}" for name in needed]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_satisfies_the_project(python: str) -> None:
    pins = locked(python)
    settings = tomllib.loads((HOME / "pyproject.toml").read_text())
    wanted = settings["project"]["dependencies"] + settings["dependency-groups"]["dev"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
    assert (pins["torch"], pins["torchvision"]) == ("2.14.0", "0.29.2"), "a pair that was built together"


def test_the_lock_names_no_index_and_has_a_hash_for_everything() -> None:
    text = (HOME / "requirements.lock").read_text()
    assert not re.search(r"https?://|file://|--index|--find-links", text)
    blocks = re.split(r"\n(?=[A-Za-z])", text)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_schema_on_disk_is_the_settings() -> None:
    """What to do if this fails: lplgrad schema > workflow/schemas/config.schema.json"""
    assert json.loads((HOME / "workflow" / "schemas" / "config.schema.json").read_text()) == schema()


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "tests/tiny.yaml"])
def test_configurations_fit_the_schema(name: str) -> None:
    import jsonschema

    jsonschema.validate(yaml.safe_load((HOME / name).read_text()), schema())


@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [
        ("exit 0", 0, ""),
        ("exit 1", 1, ""),
        ("kill -KILL $$", 137, "lplgrad train: killed, most often because memory ran out"),
        ("kill -SEGV $$", 139, "lplgrad train: a library crashed (139)"),
        ("kill -ABRT $$", 134, "lplgrad train: a library aborted (134)"),
        ("kill -ILL $$", 132, "lplgrad train: illegal instruction (132)"),
        ("kill -BUS $$", 135, "lplgrad train: a file in memory could not be read or written (135)"),
        ("kill -FPE $$", 136, "lplgrad train: a library crashed in arithmetic (136)"),
    ],
)
def test_a_job_that_a_signal_ended_is_explained(tmp_path: Path, ending: str, status: int, words: str) -> None:
    """The shell's function that runs a job, with a program that ends as it is told."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nulimit -c 0\n{ending}\n")
    program.chmod(0o755)
    rules = (HOME / "workflow/rules/common.smk").read_text()
    prefix: list[str] = []
    names: dict[str, Any] = {
        "shell": SimpleNamespace(prefix=prefix.append),
        "STUDY": SimpleNamespace(compute=SimpleNamespace(jobs_per_gpu=1, progress_seconds=20)),
        "LPLGRAD": f"{program} -m lplgrad",
        "PYTHONPATH": "src",
        "HOME": HOME,
        "quote": quote,
        "PERSONAL": "",
    }
    exec(rules[rules.index("EXPLAIN =") : rules.index("wildcard_constraints")], names)
    done = subprocess.run(
        ["bash", "-c", prefix[0] + "lplgrad train $place; echo after"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status
    assert ("after" in done.stdout) == (status == 0)
    told = [line for line in done.stderr.splitlines() if line.startswith("lplgrad")]
    assert [line.startswith(words) for line in told] == [True] * bool(words), done.stderr
