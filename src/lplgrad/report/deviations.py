"""Where a study's settings, the paper's and those of its authors' code differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from lplgrad.report.tables import Section
from lplgrad.settings import Study

COMPARED = ("recipes", "strategies", "datasets")
UNCOMPARED = {"title"}


def deviations_table(study: Study, paper: Study, authors_code: Study) -> pd.DataFrame:
    """The settings of which the three do not all say the same.

    Recipes, strategies and data sets are compared that both the study and the paper define; what the study adds of its
    own deviates from nothing.

    Returns:
        Columns setting (a dotted key of the configuration), paper, authors_code, study; values as JSON, empty where
        there is none.
    """
    settings = {
        "paper": dict(_flat(_compared(paper))),
        "authors_code": dict(_flat(_compared(authors_code))),
        "study": dict(_flat(_compared(study))),
    }
    rows = []
    for key in settings["paper"] | settings["study"]:
        kind, name, *_ = key.split(".")
        if name not in getattr(study, kind) or name not in getattr(paper, kind):
            continue
        values = {source: flat.get(key, "") for source, flat in settings.items()}
        if len(set(values.values())) > 1:
            rows.append({"setting": key, **values})
    return pd.DataFrame(rows, columns=["setting", *settings])


def _compared(study: Study) -> dict[str, Any]:
    return study.model_dump(by_alias=True, include=set(COMPARED))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key not in UNCOMPARED:
            yield prefix + key, json.dumps(value)


def deviations_sections(table: pd.DataFrame, title: str) -> list[Section]:
    """The settings as people read them; in bold where this study deviates from the paper's preset."""
    head = ["setting", "paper", "authors' code", title]
    rows = [[str(row[key]) for key in table.columns] for _, row in table.iterrows()]
    best = {(number, 3) for number, row in enumerate(rows) if row[3] != row[1]}
    if not rows:
        rows = [["none", "", "", ""]]
    return [Section("Settings that differ", head, rows, frozenset(best), text_columns=4)]
