"""Pairs of strategies that the ablation compares."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from lplgrad import recipes
from lplgrad.study.settings import Study


def ablation_pairs(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the pairs of strategies that differ only in what a recipe adds to another: the one with it, and the one
    without."""
    for one, other in permutations(study.run.strategies, 2):
        added, plain = study.strategies[one], study.strategies[other]
        with_it, without = study.recipes[added.recipe], study.recipes[plain.recipe]
        query_alike = (added.acquisition, added.options) == (plain.acquisition, plain.options)
        extends = recipes.registry.load(with_it.trains).extends == without.trains
        if extends and query_alike and with_it.init == without.init:
            yield one, other
