"""Titles in Snakemake's report: in captions, which are reStructuredText, and as labels and categories.

The Snakefile imports this module, so it imports neither torch nor Snakemake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from lplgrad.report.wording import has_target
from lplgrad.study.settings import Study
from lplgrad.study.titles import dataset_title, strategy_title

# Categories and link targets of the report itself.
TAKEN = {
    "claims", "comparison", "diagnostics", "other", "paper against ours", "results", "statistics", "study", "workflow",
}  # fmt: skip
JOINER = "\N{WORD JOINER}"  # invisible; separates no words


def escaped(text: str) -> str:
    """Escape a title for reStructuredText, so that no mark in it has a meaning."""
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", " ".join(text.split()))


def label(title: str) -> str:
    """Make a title safe as a label or a category of the report.

    Snakemake replaces ``{name}`` in it, writes it into a script of the page, and makes a link target of a category. An
    invisible character keeps each of these from interpreting a part of the title.
    """
    title = re.sub(r"[{<\\]|:(?=\s|$)", rf"\g<0>{JOINER}", " ".join(title.split()))
    return JOINER + title if title.startswith(("_", "`")) or title.casefold() in TAKEN else title


def placed(study: Study, text: str | None, names: Mapping[str, str]) -> str | None:
    """Fill names into a label or a category; ``{dataset}`` and ``{strategy}`` become titles."""
    shown = dict(names)
    if "dataset" in names:
        shown["dataset"] = label(dataset_title(study, names["dataset"]))
    if "strategy" in names:
        shown["strategy"] = label(strategy_title(study, names["strategy"]))
    return None if text is None else text.format(**shown)


def shown(study: Study, left_out: Collection[str]) -> dict[str, Any]:
    """Return the names that captions write, in reStructuredText, and whether trials may stop early.

    Args:
        study: the study.
        left_out: its data sets that are not available.
    """
    run = study.run
    strategies = {name: escaped(strategy_title(study, name)) for name in run.strategies}
    datasets = {name: escaped(dataset_title(study, name)) for name in run.datasets}
    return {
        "title": escaped(study.title),
        "strategies": strategies,
        "datasets": datasets,
        "budgets": {name: escaped(name) for name in run.budgets},
        "left_out": [datasets[name] for name in left_out],
        "target": has_target(study),
        "test_examples": f"{study.model_figures.embedded_images:,} random test examples (all, if there are fewer)",
    }
