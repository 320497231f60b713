"""Print the JSON schema of the configuration, for editors: they complete keys and underline mistakes by it."""

from __future__ import annotations

import argparse
import json

from lplgrad.study import budgets, settings
from lplgrad.study.validation import Settings


def run(arguments: argparse.Namespace) -> None:
    """Print the schema."""
    print(json.dumps(schema(), indent=2))


def schema() -> dict[str, object]:
    """The schema of a configuration file. No key is required, since a file may be merged over another."""
    whole = settings.Study.model_json_schema(by_alias=True)
    kinds = {**vars(budgets), **vars(settings)}
    for name, part in [("Study", whole), *whole["$defs"].items()]:
        part.pop("required", None)
        kind = kinds[name]
        assert issubclass(kind, Settings)
        described = _attributes(kind.__doc__ or "")
        for field, about in kind.model_fields.items():
            part["properties"][about.alias or field]["description"] = described[field]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _attributes(docstring: str) -> dict[str, str]:
    """What the section "Attributes" of a docstring says of each."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.partition("Attributes:\n")[2].splitlines():
        head, colon, text = line.strip().partition(": ")
        if colon and line.startswith(" " * 8) and not line.startswith(" " * 9):
            names = head.split(", ")
            found.update(dict.fromkeys(names, text))
        else:
            found.update({name: f"{found[name]} {line.strip()}".strip() for name in names})
    return found
