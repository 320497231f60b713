"""What figures, tables and messages call strategies and data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import is_representation

if TYPE_CHECKING:  # study.settings imports this module
    from lplgrad.study.settings import Study


def strategy_title(study: Study, name: str) -> str:
    """Return the title of a strategy on one line, or its name if it has no title.

    If it needs a representation and takes the features of the round's own model instead, the title says so: that is
    another method than the published one.
    """
    row, run = study.strategies[name], [one for one in study.run.datasets if one in study.datasets]
    title = _one_line(row.title or name)
    if title and any(map(is_representation, row.needs)):
        own = [one for one in run if not study.datasets[one].has_representation]
        if own:
            where = "" if own == run else f" on {', '.join(dataset_title(study, one) for one in own)}"
            title += f" (own features{where})"
    return title


def dataset_title(study: Study, name: str) -> str:
    """Return the title of a data set on one line, or its name if it has no title."""
    return _one_line(study.datasets[name].title or name)


def _one_line(title: str) -> str:
    return " ".join(title.split())
