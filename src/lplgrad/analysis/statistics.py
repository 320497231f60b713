"""All statistics of a study, computed from its measurements at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lplgrad.analysis import comparison, curves, ranks


@dataclass(frozen=True)
class Statistics:
    """The statistics of a study; the function that makes each table describes its columns."""

    strategies: list[str]
    reference: str
    baseline: str | None
    rounds: pd.DataFrame
    areas: pd.DataFrame
    area_summary: pd.DataFrame
    differences: pd.DataFrame
    gains: pd.DataFrame
    round_differences: pd.DataFrame
    labels_needed: pd.DataFrame
    penalties: pd.DataFrame
    ranking: ranks.Ranking
    ranked_seeds: pd.Series[int]
    left_out: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by the names of their files."""
        ranking = self.ranking
        ranked = pd.DataFrame(
            {"strategy": ranking.ranks.index, "rank": ranking.ranks.to_numpy(), "blocks": ranking.blocks}
        ).assign(
            fewest_seeds=self.ranked_seeds.loc[lambda seeds: seeds > 0].min(),
            friedman_chi_squared=ranking.statistic, friedman_p=ranking.p, friedman_method=ranking.method,
            critical_difference=ranking.critical, refused=ranking.refused,
        )  # fmt: skip
        return {
            "rounds": self.rounds, "areas": self.areas, "area_summary": self.area_summary,
            "area_differences": self.differences, "gains": self.gains, "round_differences": self.round_differences,
            "labels_needed": self.labels_needed, "penalties": self.penalties, "ranks": ranked,
            "left_out": self.left_out,
        }  # fmt: skip

    def penalty_matrix(self) -> pd.DataFrame:
        """Return the share of wins of each row's strategy over each column's; NaN if the two could not be compared."""
        compared = set(self.area_summary["strategy"])
        names = [name for name in self.strategies if name in compared]
        shares = self.penalties.pivot(index="strategy", columns="baseline", values="share")
        return shares.reindex(index=names, columns=names)


def statistics(measurements: pd.DataFrame, strategies: list[str], accuracies: Sequence[float] = ()) -> Statistics:
    """Compute all statistics of checked measurements. ``strategies`` are in the order of the study; labels needed are
    counted for ``accuracies`` in percent, by default those of ``curves.targets``."""
    measured = set(measurements["strategy"])
    present = [name for name in strategies if name in measured]
    reference = comparison.reference_of(present)
    areas = curves.areas(measurements)
    of_rounds = comparison.round_differences(
        measurements, [reference, *(name for name in present if name != reference)]
    )
    baseline = comparison.random_of(measurements)
    means, ranked_seeds = comparison.block_means(areas)
    return Statistics(
        strategies=present,
        reference=reference,
        baseline=baseline,
        rounds=comparison.rounds(measurements),
        areas=areas,
        area_summary=comparison.area_summary(areas),
        differences=comparison.area_differences(areas, present, reference),
        gains=comparison.gains(areas, measurements, present),
        round_differences=of_rounds,
        labels_needed=curves.labels_summary(curves.labels_needed(measurements, accuracies), baseline),
        penalties=comparison.penalties(of_rounds, comparison.first_labels(measurements), present),
        ranking=ranks.rank(means),
        ranked_seeds=ranked_seeds,
        left_out=curves.left_out(measurements),
    )
