"""What lies beside the code: environments, lock, schema, profile."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement

from lplgrad.commands.schema import schema

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
