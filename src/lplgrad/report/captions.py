"""Titles as Snakemake's report takes them: in captions, which are reStructuredText, and as labels and categories.

Imports neither torch nor Snakemake, since the Snakefile reads it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from lplgrad.study.settings import Study, shown_title

# Categories and link targets that the report has anyway.
TAKEN = {
    "claims", "comparison", "diagnostics", "other", "paper against ours", "results", "statistics", "study", "workflow",
}  # fmt: skip
JOINER = "\N{WORD JOINER}"  # is not seen, and separates no words


def escaped(text: str) -> str:
    """A title in reStructuredText: each mark has a backslash before it, so that none means anything."""
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", " ".join(text.split()))


def label(title: str) -> str:
    """A title as a label or a category of the report.

    Snakemake replaces ``{name}`` in it, writes it into a script of the page, and makes a link target of a category. A
    character that is not seen keeps each of these from reading a part of the title as its own.
    """
    title = re.sub(r"[{<\\]|:(?=\s|$)", rf"\g<0>{JOINER}", " ".join(title.split()))
    return JOINER + title if title.startswith(("_", "`")) or title.casefold() in TAKEN else title


def shown(study: Study, left_out: Collection[str]) -> dict[str, Any]:
    """What captions say of a study, in reStructuredText: its title, and names of what it runs by their names.

    Args:
        study: the study.
        left_out: its data sets that could not be had.
    """
    run = study.run
    strategies = {name: escaped(shown_title(study.strategies, name)) for name in run.strategies}
    datasets = {name: escaped(shown_title(study.datasets, name)) for name in run.datasets}
    return {
        "title": escaped(study.title),
        "strategies": strategies,
        "datasets": datasets,
        "budgets": {name: escaped(name) for name in run.budgets},
        "left_out": [datasets[name] for name in left_out],
    }
