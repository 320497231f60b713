"""Registries: packages with one module per entry, whose file name is the entry's name in the configuration.

The configuration is checked without torch, so a module of a registry must not import torch. It uses ``lazy("torch")``
instead, or imports it within the functions that need it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

EntryT = TypeVar("EntryT")


class Registry(Generic[EntryT]):
    """The entries of a package. Packages and modules with a leading ``_`` are not entries, but shared parts.

    Args:
        package: its name.
        path: its folders.
        constant: name of the constant that each module defines.
    """

    def __init__(self, package: str, path: Iterable[str], constant: str) -> None:
        self.package = package
        self.path = path
        self.constant = constant

    def names(self) -> list[str]:
        """Return the names of all entries."""
        modules = pkgutil.iter_modules(self.path)
        return sorted(one.name for one in modules if not (one.ispkg or one.name.startswith("_")))

    def load(self, name: str) -> EntryT:
        """Return the entry with a name from ``names``."""
        entry: EntryT = getattr(importlib.import_module(f"{self.package}.{name}"), self.constant)
        return entry

    def root(self, name: str) -> str:
        """Return an entry's root for ``digest.code_digest``, which cannot follow ``load``."""
        return f"{self.package.removeprefix('lplgrad.')}.{name}.{self.constant}"


class lazy:  # noqa: N801 - stands for a module
    """A module that is imported when an attribute of it is used for the first time."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
