"""Tables and figures by kind: read what a kind needs, as the arguments of the function that makes it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from lplgrad.analysis.curves import CELL
from lplgrad.analysis.measured import read_classes, read_measurements, read_timings
from lplgrad.machine.errors import UserError, nearest
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study_file
from lplgrad.study.settings import StudyFile

READERS = {"measurements": read_measurements, "timings": read_timings, "classes": read_classes}


def function_of(arguments: argparse.Namespace) -> Callable[..., Any]:
    """Import the function that makes the kind in ``arguments.kind``; ``arguments.kinds`` lists all kinds."""
    function: Callable[..., Any] = resolve_name(f"lplgrad.{arguments.kinds[arguments.kind].function}")
    return function


def inputs_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read and check what a kind needs.

    Returns:
        The study under ``file``, and a value for each need of the kind: tables as data frames, other options as they
        were given. Kinds that need a seed are about one trial, which replaces its four names.

    Raises:
        UserError: an option is missing, a file is not sound, or a name is unknown.
    """
    needs = arguments.kinds[arguments.kind].needs
    missing = [f"--{name}" for name in needs if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"{arguments.kind} needs {' and '.join(missing)}")
    file = read_study_file(arguments.study)
    options = {name: getattr(arguments, name) for name in needs}
    frames = {name: READERS[name](options.pop(name), file, arguments.partial) for name in READERS if name in options}
    if "seed" in options:
        return {"file": file, **frames, "trial": _trial(file, options)}
    if "measurements" in frames:
        for name in set(CELL) & set(options):
            known = set(frames["measurements"][name])
            if options[name] not in known:
                hint = nearest(options[name], known)
                raise UserError(f"--{name}: the measurements have no {options[name]!r} ({hint})")
    return {"file": file, **frames, **options}


def _trial(file: StudyFile, options: dict[str, Any]) -> Trial:
    trial = Trial(**options)
    trials = list(Layout(file.study, file.unavailable).trials())
    for name, value in options.items():
        known = {str(getattr(other, name)) for other in trials}
        if str(value) not in known:
            raise UserError(f"--{name}: the study has no {value!r} ({nearest(str(value), known)})")
    return trial
