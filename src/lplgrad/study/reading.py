"""Read a study from configuration files, each merged over the ones before and checked on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lplgrad.machine.errors import UserError
from lplgrad.study.layout import Layout
from lplgrad.study.settings import Study, StudyFile
from lplgrad.study.validation import first_difference, merge, parse, read_yaml


def read_study(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Study:
    """Merge YAML (or JSON) files, of which the first is complete in itself, then overrides from the command line.

    Check the study after every step, and raise UserError with the file and key at fault.
    """
    layers: list[tuple[str, Any]] = [(str(file), _read_yaml_file(Path(file))) for file in files]
    if overrides:
        layers.append(("--config", _typed(overrides)))
    if not layers:
        raise UserError("no configuration file was given")
    merged: dict[str, Any] = {}
    for where, layer in layers:
        if not isinstance(layer, Mapping):
            raise UserError(f"{where}: expected keys and values at the top level")
        if not merged and "recipes" not in layer:
            raise UserError(f"{where}: no recipes; name the file that it is laid over before it: config.yaml {where}")
        merged = merge(merged, layer)
        study = parse(Study, merged, where)
    return study


def read_configuration(files: Sequence[str | Path]) -> Study:
    """Read a study as Snakemake does: lay files over ``config.yaml`` here, unless the first is complete in itself."""
    base = Path("config.yaml")
    first = _read_yaml_file(Path(files[0])) if files else None
    alone = isinstance(first, Mapping) and "recipes" not in first and base.exists()
    return read_study([base, *files] if alone else files)


def _typed(value: Any) -> Any:
    """Values of Snakemake's ``--config``, which hands some numbers and truth values over as text."""
    if isinstance(value, Mapping):
        return {key: _typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_typed(inner) for inner in value]
    if isinstance(value, str):
        read = read_yaml(value, "--config")
        return read if isinstance(read, bool | int | float) else value
    return value


def read_study_file(path: Path) -> StudyFile:
    """Read what ``lplgrad study`` wrote. Raise UserError if it is not such a file, or cut off."""
    values = _read_yaml_file(path)
    if isinstance(values, dict) and "study" in values and "unavailable" not in values:
        # A file that lost its last lines may still parse as a study, with defaults for what is gone.
        raise UserError(f"{path}: cut off, since its last key, unavailable, is missing; delete it and run again")
    return parse(StudyFile, values, str(path))


def left_out(study: Study) -> dict[str, str]:
    """Read which data sets the study did without when it last ran, and why."""
    written = Path("results") / study.study / "study.yaml"
    return read_study_file(written).unavailable if written.exists() else {}


def _read_yaml_file(path: Path) -> Any:
    try:
        return read_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None


def check_reported(study: Study) -> None:
    """Raise UserError if ``study.yaml`` of the results differs from the configuration that is to be reported."""
    written = Path(Layout(study).root) / "study.yaml"
    if written.exists():
        ran, asked = (Layout(one).study_settings() for one in (read_study_file(written).study, study))
        if problem := first_difference(ran, asked):
            raise UserError(f"{written}: {problem}; run Snakemake before --report, or name the configuration that ran")
