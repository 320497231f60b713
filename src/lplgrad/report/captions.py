"""Titles in Snakemake's report: in captions, which are reStructuredText, and as labels and categories.

The Snakefile imports this module, so it imports neither torch nor Snakemake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from lplgrad.report.wording import has_bands, has_numbers, has_target, in_colour
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


def _highlight(study: Study, titles: Mapping[str, str]) -> str:
    """Say which strategies a figure highlights; empty if it shows all in colour."""
    front = in_colour(study)
    if front == study.run.strategies:
        return ""
    return f"Highlighted: {', '.join(titles[name] for name in front)}. The other strategies are grey."


def _curves(study: Study, titles: Mapping[str, str]) -> str:
    """Say what distinguishes curves from each other, apart from colours, markers and dashes."""
    told = [_highlight(study, titles)]
    if has_numbers(study):
        told.append("The number at the end of a curve is that of its strategy in the legend.")
    if not has_bands(study):
        told.append(
            "Bars show the spread at the last points of the curves, right of each panel in the order of numbers."
        )
    elif told[0]:
        told.append("Only highlighted strategies have a band.")
    return " ".join(filter(None, told))


def shown(study: Study, left_out: Collection[str]) -> dict[str, Any]:
    """Return the names that captions write, in reStructuredText, whether trials may stop early, and how curves look.

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
        "highlight": _highlight(study, strategies),
        "spread": "band" if has_bands(study) else "bar",
        "curves": _curves(study, strategies),
        "test_examples": f"{study.model_figures.embedded_images:,} random test examples (all, if there are fewer)",
    }
