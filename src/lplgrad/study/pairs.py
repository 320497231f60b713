"""Pairs of strategies that the ablation compares."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from lplgrad.study.settings import Recipe, Study


def ablation_pairs(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the pairs of strategies that differ only in the auxiliary module: the one with it, and the one without."""
    of_module = {"auxiliary", *Recipe.of_auxiliary}
    for one, other in permutations(study.run.strategies, 2):
        joint, plain = study.strategies[one], study.strategies[other]
        with_it, without = study.recipes[joint.recipe], study.recipes[plain.recipe]
        query_alike = (joint.acquisition, joint.checked_options) == (plain.acquisition, plain.checked_options)
        train_alike = with_it.model_dump(exclude=of_module) == without.model_dump(exclude=of_module)
        if with_it.auxiliary and not without.auxiliary and query_alike and train_alike:
            yield one, other
