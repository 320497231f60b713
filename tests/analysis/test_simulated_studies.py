"""Error rates, coverage and power of the statistics on simulated studies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lplgrad.analysis import comparison, inference, ranks
from lplgrad.analysis.curves import normalized_area

STUDIES, SEEDS, ROUNDS, STRATEGIES = 2000, 5, 9, 4


def simulated_areas(effect: float, seed: int, seeds: int = SEEDS, strategies: int = STRATEGIES) -> inference.Array:
    """Areas of simulated studies, shape (studies, strategies, seeds): rising curves, luck that the strategies of a seed
    share, luck of a trial, luck of a round; the first strategy is better by ``effect`` points."""
    generator = np.random.default_rng(seed)
    labels = np.arange(2, ROUNDS + 2) * 100.0
    curve = 90 * (1 - np.exp(-labels / 400))
    shared = generator.normal(scale=2, size=(STUDIES, 1, seeds, 1))
    trial = generator.normal(scale=0.7, size=(STUDIES, strategies, seeds, 1))
    noise = generator.normal(scale=1, size=(STUDIES, strategies, seeds, ROUNDS))
    better = np.array([effect] + [0.0] * (strategies - 1))[None, :, None, None]
    return normalized_area(labels, curve + better + shared + trial + noise)


def compared(one: inference.Array, other: inference.Array) -> dict[str, Any]:
    """One simulated comparison, as the report makes it."""
    found = comparison.compare(pd.Series(one), pd.Series(other), power=False)
    assert found is not None
    return found


def error_of(share: float) -> float:
    """Three standard errors of a share of the simulated studies."""
    return 3 * math.sqrt(share * (1 - share) / STUDIES)


class TestSimulatedStudies:
    @pytest.mark.slow
    def test_without_a_difference(self) -> None:
        """A single test is wrong in 5 % of the studies, and after Holm's correction a whole study in at most 5 %."""
        p = np.array(
            [[compared(areas[0], other)["p"] for other in areas[1:]] for areas in simulated_areas(0.0, seed=1)]
        )
        for single in (p < 0.05).mean(axis=0):
            assert single == pytest.approx(0.05, abs=error_of(0.05))
        family = (inference.holm(p) < 0.05).any(axis=1).mean()
        assert family <= 0.05 + error_of(0.05)
        assert (p < 0.05).any(axis=1).mean() > 0.08, "uncorrected, a study would be wrong much more often"

    @pytest.mark.parametrize(("seeds", "level"), [(6, 2 / 2**6), (8, 10 / 2**8)])
    def test_wilcoxon_keeps_the_level(self, seeds: int, level: float) -> None:
        """Of the 64 flips of 6 signs 2 give p < .05, of the 256 of 8 signs 10."""
        areas = simulated_areas(0.0, seed=2, seeds=seeds, strategies=2)
        rejected = np.mean([inference.wilcoxon(study[0] - study[1])[0] < 0.05 for study in areas])
        assert rejected == pytest.approx(level, abs=error_of(level))

    def test_friedman_keeps_the_level(self) -> None:
        areas = simulated_areas(0.0, seed=2, seeds=6, strategies=3)  # the seeds stand for data sets here
        in_blocks = stats.rankdata(areas, axis=1).transpose(0, 2, 1)
        rejected = np.mean([ranks.friedman(blocks)[1] < 0.05 for blocks in in_blocks])
        assert rejected <= 0.05 + error_of(0.05)
        assert rejected > 0.02, "discrete, but no constant"

    def test_coverage(self) -> None:
        areas = simulated_areas(1.5, seed=3, strategies=2)
        labels = np.arange(2, ROUNDS + 2) * 100.0
        truth = float(normalized_area(labels, 90 * (1 - np.exp(-labels / 400)))) + 1.5
        long = pd.DataFrame({"study": np.repeat(np.arange(STUDIES), SEEDS), "area": areas[:, 0].ravel()})
        means = comparison.summary(long, ["study"], "area")
        differences = pd.DataFrame([compared(one, other) for one, other in areas])
        for found, expected in ((means, truth), (differences, 1.5)):
            covered = ((found["low"] < expected) & (expected < found["high"])).mean()
            assert covered == pytest.approx(0.95, abs=error_of(0.95))

    @pytest.mark.parametrize(("seeds", "share"), [(3, 0.74), (5, 0.83)])
    def test_why_not_the_percentile_bootstrap(self, seeds: int, share: float) -> None:
        """The t interval covers 95 % with any number of seeds; resampling so few values covers far less."""
        generator = np.random.default_rng(5)
        values = generator.normal(size=(STUDIES, seeds))
        picks = generator.integers(seeds, size=(STUDIES, 1000, seeds))
        means = np.take_along_axis(values[:, None, :], picks, axis=2).mean(axis=2)
        low, high = np.percentile(means, [2.5, 97.5], axis=1)
        assert ((low < 0) & (high > 0)).mean() == pytest.approx(share, abs=error_of(share))
        low, high = np.array([inference.estimate(of_study).interval() for of_study in values]).T
        assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.95, abs=error_of(0.95))

    def test_a_known_effect_is_found_with_the_stated_power(self) -> None:
        labels = np.arange(2, ROUNDS + 2) * 100.0
        weights = normalized_area(labels, np.eye(ROUNDS))
        spread = math.sqrt(2 * (0.7**2 + (weights**2).sum()))
        areas = simulated_areas(inference.detectable(spread, SEEDS), seed=4, strategies=2)
        p = np.array([compared(one, other)["p"] for one, other in areas])
        assert (p < 0.05).mean() == pytest.approx(0.8, abs=error_of(0.8))

    @pytest.mark.parametrize(
        ("seeds", "correlation", "share"), [(5, 0.0, 0.92), (5, 1.0, 1.0), (3, 0.0, 0.75), (10, 0.0, 0.97)]
    )
    def test_the_bias_of_g(self, seeds: int, correlation: float, share: float) -> None:
        """Of a true effect of one deviation: exact where strategies vary as one, too small where they do not."""
        generator = np.random.default_rng(6)
        shared, one, other = generator.normal(size=(3, 5000, seeds))
        ways = math.sqrt(correlation), math.sqrt(1 - correlation)
        pairs = zip(ways[0] * shared + ways[1] * one + 1, ways[0] * shared + ways[1] * other, strict=True)
        found = np.array([inference.hedges_g(*pair) for pair in pairs])
        assert found.mean() == pytest.approx(share, abs=0.005 + 3 * found.std() / math.sqrt(5000))
