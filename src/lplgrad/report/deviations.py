"""The settings in which a study, the paper and its authors' code differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.report.document import Part, paragraphs, strong_if
from lplgrad.report.tables import Table
from lplgrad.report.wording import count
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study, StudyFile
from lplgrad.study.validation import Row, Settings

UNCOMPARED = {"title"}


def deviations(file: StudyFile, presets: list[Path]) -> Table:
    """Make the table. The presets are the paper's configuration, and what the authors' code changes in it."""
    note = paragraphs(__file__, "deviations")
    table = deviations_table(file.study, read_study(presets[:1]), read_study(presets))
    return Table(table, "Paper, authors' code and this study", deviations_parts(table, "this study"), note)


def deviations_table(study: Study, paper: Study, authors_code: Study) -> pd.DataFrame:
    """Compare the recipes, strategies, data sets and budgets that both the study and the paper define, the precision
    of training, and the number of seeds.

    Returns:
        Columns setting (a dotted key of the configuration), paper, authors_code, study; values as JSON, or empty. A
        setting on which all three agree has no row.
    """
    rows = {"paper": _rows(paper), "authors_code": _rows(authors_code), "study": _rows(study)}
    found = []
    for row in rows["paper"]:
        if row in rows["study"]:
            flat = {source: dict(_flat(of[row][0], f"{row}.")) for source, of in rows.items()}
            idle = {source: set(_defaults(of[row][1], f"{row}.")) for source, of in rows.items()}
            for key in flat["paper"] | flat["study"]:
                values = {source: settings.get(key, "") for source, settings in flat.items()}
                # Of another source, backbone or the like, options that have their defaults say nothing.
                foreign = "" in values.values() and all(key not in flat[of] or key in idle[of] for of in flat)
                if len(set(values.values())) > 1 and not foreign:
                    found.append({"setting": key, **values})
    return pd.DataFrame(found, columns=["setting", *rows])


def _rows(study: Study) -> dict[str, tuple[dict[str, Any], Settings | None]]:
    """Return what is compared by its dotted name, with the settings it is from; each budget of a data set is a row."""
    rows: dict[str, tuple[dict[str, Any], Settings | None]] = {}
    for name, recipe in study.recipes.items():
        rows[f"recipes.{name}"] = recipe.model_dump(by_alias=True), recipe
    for name, strategy in study.strategies.items():
        rows[f"strategies.{name}"] = strategy.model_dump(by_alias=True), strategy
    for name, dataset in study.datasets.items():
        rows[f"datasets.{name}"] = dataset.model_dump(by_alias=True, exclude={"budgets"}), dataset
        for budget, row in dataset.budgets.items():
            rows[f"datasets.{name}.budgets.{budget}"] = row.model_dump(), row
    rows["compute"] = {"precision": study.compute.precision}, None
    rows["run"] = {"seeds": count(len(study.run.seeds), "seed")}, None
    return rows


def _defaults(settings: Settings | None, prefix: str) -> Iterator[str]:
    """Yield the dotted keys of the options that have their defaults, also those of rows within."""
    if isinstance(settings, Row):
        yield from (prefix + key for key in settings.options.keys() - settings.changed_options.keys())
        for name in type(settings).model_fields:
            yield from _defaults(getattr(settings, name), f"{prefix}{name}.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key not in UNCOMPARED:
            yield prefix + key, json.dumps(value)


def deviations_parts(table: pd.DataFrame, title: str) -> list[Part]:
    """Lay out the settings; those in which the study deviates from the paper's preset are bold."""
    head = ["setting", "paper", "authors' code", title]
    cells = [[str(cell).replace('"', "") for cell in row] for row in table.itertuples(index=False)]
    rows = [[key, paper, code, strong_if(study != paper, study)] for key, paper, code, study in cells]
    return [Part("Settings that differ", head=head, rows=rows or [["none", "", "", ""]], text_columns=4)]
