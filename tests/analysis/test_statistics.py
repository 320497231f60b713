"""The statistics against scipy and published worked examples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lplgrad.analysis import choices, inference, ranks
from lplgrad.modalities.image import shrunk

# Student (1908): hours of sleep gained by ten patients with two drugs; R's data set `sleep` and its documented t test.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]


DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


# Demšar (2006), Table 6: area under the ROC curve of C4.5 and three variants on 14 data sets. One value that is a tie
# as printed (voting, .975) was not when it was ranked.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def draw(*shape: int, seed: int = 1) -> inference.Array:
    return np.random.default_rng(seed).normal(size=shape)


class TestInference:
    def test_students_own_example(self) -> None:
        found = inference.estimate(np.array(DRUG_1) - np.array(DRUG_2))
        assert (found.value / found.error, found.p) == pytest.approx((-4.0621, 0.002833), abs=1e-4)
        assert (found.value, *found.interval()) == pytest.approx((-1.58, -2.4598858, -0.7001142))

    def test_the_interval_and_test_are_scipys(self) -> None:
        for one, other in zip(draw(6, 5), draw(6, 5, seed=2), strict=True):
            found, theirs = inference.estimate(one - other), stats.ttest_rel(one, other)
            interval = theirs.confidence_interval()
            assert (found.p, *found.interval()) == pytest.approx((theirs.pvalue, interval.low, interval.high))
            interval = theirs.confidence_interval(0.999)
            assert found.interval(0.999) == pytest.approx((interval.low, interval.high))

    def test_welch_is_scipys(self) -> None:
        one, other = draw(5) * 3 + 1, draw(5, seed=2)
        found = inference.welch((one.mean(), one.std(ddof=1)), (other.mean(), other.std(ddof=1)), (5, 5))
        theirs = stats.ttest_ind(one, other, equal_var=False)
        interval = theirs.confidence_interval()
        assert (found.p, found.freedom, *found.interval()) == pytest.approx(
            (theirs.pvalue, theirs.df, interval.low, interval.high)
        )
        assert math.isnan(inference.welch((1, 0.0), (0, 0.0), (5, 5)).p)
        assert math.isnan(inference.welch((1, math.nan), (0, 0.1), (5, 5)).p)

    @pytest.mark.parametrize("differences", [[1.0, 2, 3, 4, 5], [1.0, -1, 2, 2, 0, 3], [0.1 + 0.2, -0.3, 0.5, 0.5]])
    def test_wilcoxon_is_all_flips_of_signs(self, differences: list[float]) -> None:
        kept = [value for value in differences if value]
        sizes = stats.rankdata(np.round(np.abs(kept), 12))
        flips = itertools.product((1, -1), repeat=len(kept))
        sums = [float(np.dot(flip, sizes)) for flip in flips]
        observed = abs(sum(np.sign(kept) * sizes))
        p, floor = inference.wilcoxon(differences)
        assert p == pytest.approx(np.mean(np.abs(sums) >= observed - 1e-9))
        assert floor == 2 / 2 ** len(kept)

    @pytest.mark.parametrize("size", [2, 3, 6, 11, 24, 50])
    def test_wilcoxon_is_scipys_exact_test(self, size: int) -> None:
        """Without ties SciPy is exact. With ties it tries all flips of signs, one by one."""
        draw = np.random.default_rng(size)
        for shift in (0.0, 0.4):
            differences = draw.normal(shift, size=size)
            theirs = stats.wilcoxon(differences, method="exact").pvalue
            assert inference.wilcoxon(differences)[0] == pytest.approx(theirs, rel=1e-12)
            if size <= 6:
                tied = np.round(differences * 2) + 0.5
                assert inference.wilcoxon(tied)[0] == pytest.approx(stats.wilcoxon(tied).pvalue, rel=1e-12)

    def test_wilcoxon_demsar(self) -> None:
        """Section 3.1.3 finds T = 12 below the critical 21: C4.5 and C4.5+m differ at 5 %."""
        differences = DEMSAR[:, 1] - DEMSAR[:, 0]
        assert stats.wilcoxon(differences.round(6), zero_method="zsplit").statistic == 12
        assert inference.wilcoxon(differences)[0] < 0.05

    def test_five_seeds_cannot_be_significant_by_wilcoxon(self) -> None:
        assert inference.wilcoxon([9.0, 8, 7, 6, 5]) == (0.0625, 0.0625)

    def test_wilcoxon_of_differences_that_do_not_vary(self) -> None:
        """Their signs are all that it needs: all alike, as they would be by chance in 2 of 8 cases."""
        assert inference.wilcoxon([0.5, 0.5, 0.5]) == (0.25, 0.25)
        assert inference.wilcoxon([0.5, 0.0]) == (1.0, 1.0)

    def test_holm_demsar(self) -> None:
        """Section 3.2.2: .016 and .019 are rejected at .0167 and .025, .607 is not."""
        assert inference.holm([0.607, 0.019, 0.016]) == pytest.approx([0.607, 0.048, 0.048])
        adjusted = inference.holm([0.01, math.nan, 0.04])
        assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04])
        assert math.isnan(adjusted[1])
        assert inference.holm([[0.01, 0.9], [0.6, 0.02]]) == pytest.approx(np.array([[0.02, 0.9], [0.6, 0.04]]))

    def test_hedges_g_by_hand(self) -> None:
        """Hedges (1981), Table 1: the factor is .7979 for 4 degrees of freedom."""
        one, other = np.array([2.0, 4, 6, 8, 10]), np.array([1.0, 2, 3, 4, 5])
        average = (math.sqrt(10) + math.sqrt(2.5)) / 2
        assert inference.hedges_g(one, other) == pytest.approx(3 / average * 0.7979, rel=1e-4)
        assert math.isnan(inference.hedges_g(one[:2], other[:2]))
        assert math.isnan(inference.hedges_g([1, 1, 1], [0, 0, 0]))

    @pytest.mark.parametrize(("effect", "count"), [(0.2, 199), (0.5, 34), (0.8, 15)])
    def test_seeds_needed_as_g_power(self, effect: float, count: int) -> None:
        """Matched pairs, two-sided, 5 %, 80 %: the numbers that G*Power 3 gives (Faul et al. 2007)."""
        assert inference.seeds_needed(effect) == count
        assert inference.detectable(2.0, count) <= 2 * effect < inference.detectable(2.0, count - 1)

    def test_power_is_the_noncentral_t(self) -> None:
        critical = stats.t.ppf(0.975, 4)
        shift = 1.3 * math.sqrt(5)
        expected = stats.nct.sf(critical, 4, shift) + stats.nct.cdf(-critical, 4, shift)
        assert inference.t_test_power(1.3, 5) == pytest.approx(expected)
        assert inference.t_test_power(0, 5) == pytest.approx(0.05)
        assert inference.t_test_power(60, 5) == pytest.approx(1)

    def test_what_cannot_be_known_is_nan(self) -> None:
        for values in ([1.0], [0.3, 0.1 + 0.2, 0.3], [0.0, 0.0]):
            found = inference.estimate(values)
            assert np.isnan([found.p, *found.interval()]).all()
        assert math.isnan(inference.estimate([]).value)
        for values in ([], [0.5], [0.0, 0.0]):
            assert np.isnan(inference.wilcoxon(values)).all()
        assert math.isnan(inference.detectable(1.0, 1))
        assert math.isnan(inference.detectable(0.0, 5))
        assert inference.seeds_needed(0.0) == math.inf
        assert math.isnan(inference.seeds_needed(math.nan))


class TestRanks:
    def test_demsar(self) -> None:
        """Section 3.2.2: average ranks, and a critical difference of 1.25 that tells no pair apart."""
        found = ranks.rank(pd.DataFrame(DEMSAR, columns=["C4.5", "+m", "+cf", "+m+cf"]))
        assert found.ranks.round(3).to_dict() == {"C4.5": 3.143, "+m": 2.0, "+cf": 2.893, "+m+cf": 1.964}
        assert found.critical == pytest.approx(1.25, abs=0.005)
        assert found.p < 0.05
        assert found.groups == [(0, 3)]

    @pytest.mark.parametrize(("size", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (6, 2.850), (10, 3.164)])
    def test_nemenyi_as_tabled(self, size: int, quantile: float) -> None:
        """Demšar (2006), Table 5(a)."""
        scale = math.sqrt(size * (size + 1) / (6 * 10))
        assert ranks.nemenyi(size, 10) / scale == pytest.approx(quantile, abs=1e-3)

    def test_iman_davenport_as_published(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Conover, Practical Nonparametric Statistics (1999), section 5.8, example 1, twelve home owners ranking four
        grasses with ties; to these digits in the manual of R's agricolae (data set ``grass``)."""
        grasses = np.array(
            [
                [4, 3, 2, 1], [4, 2, 3, 1], [3, 1.5, 1.5, 4], [3, 1, 2, 4], [4, 2, 1, 3], [2, 2, 2, 4], [1, 3, 2, 4],
                [2, 4, 1, 3], [3.5, 1, 2, 3.5], [4, 1, 3, 2], [4, 2, 3, 1], [3.5, 1, 2, 3.5],
            ]
        )  # fmt: skip
        assert grasses.sum(axis=0).tolist() == [38, 23.5, 24.5, 34]
        monkeypatch.setattr(ranks, "MOST_SUMS", 0)
        chi_squared, p, method = ranks.friedman(grasses)
        assert method == "Iman-Davenport"
        assert (chi_squared, p) == pytest.approx((8.097345, 0.03621547), abs=1e-6)
        assert stats.f.isf(p, 3, 33) == pytest.approx(3.192198, abs=1e-6)

    def test_the_statistic_is_scipys(self) -> None:
        for values in (DEMSAR, draw(7, 5)):
            in_blocks = stats.rankdata(-values, axis=1)
            theirs = stats.friedmanchisquare(*(-values).T)
            assert ranks.friedman(in_blocks)[0] == pytest.approx(theirs.statistic)

    @pytest.mark.parametrize(
        ("sums", "blocks", "p"), [((3, 6, 9), 3, 0.028), ((4, 8, 12), 4, 0.0046), ((4, 9, 11), 4, 0.042)]
    )
    def test_exact_as_tabled(self, sums: tuple[int, ...], blocks: int, p: float) -> None:
        """Friedman (1937), Table VI; Siegel & Castellan (1988), Table M."""
        orders = list(itertools.permutations((1.0, 2.0, 3.0)))
        found = next(c for c in itertools.product(orders, repeat=blocks) if tuple(np.sum(c, axis=0)) == sums)
        _, exact, method = ranks.friedman(np.array(found))
        assert method == "exact"
        assert exact == pytest.approx(p, abs=6e-4)

    def test_exact_with_ties_is_all_permutations(self) -> None:
        in_blocks = np.array([[1.5, 1.5, 3.0], [1, 2, 3], [2, 1, 3]])
        everything = itertools.product(*(list(itertools.permutations(block)) for block in in_blocks))
        distances = [((np.sum(choice, axis=0) - 6) ** 2).sum() for choice in everything]
        observed = ((in_blocks.sum(axis=0) - 6) ** 2).sum()
        assert ranks.friedman(in_blocks)[1] == pytest.approx(np.mean(np.array(distances) >= observed - 1e-9))

    def test_groups_are_the_longest_runs(self) -> None:
        assert ranks.groups(np.array([1.0, 1.5, 3.0, 3.4, 5.0]), 2.0) == [(0, 1), (1, 3), (3, 4)]
        assert ranks.groups(np.array([1.0, 4.0, 7.0]), 2.0) == []

    def test_refusals(self) -> None:
        frame = pd.DataFrame(DEMSAR, columns=list("abcd"))
        assert ranks.rank(frame.head(1)).refused == "a test needs two blocks or more"
        assert ranks.rank(frame[["a", "b"]]).refused == "a test needs three strategies or more"
        assert "is more than ranks can differ by" in ranks.rank(frame.head(2)).refused
        gap = frame.copy()
        gap.loc[3, "b"] = math.nan
        assert ranks.rank(gap).dropped == ["b"]
        tied = ranks.rank(frame * 0)
        assert (tied.p, tied.groups) == (1.0, [(0, 3)])
        assert "finds no difference" in tied.refused


class TestDiagnostics:
    def test_calibration_by_hand(self) -> None:
        """Two images at .9 of which one is right, two at .6 that are right: (2 |.5 - .9| + 2 |1 - .6|) / 4."""
        probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
        labels = np.array([0, 1, 0, 0])
        logits = np.log(probabilities)
        assert choices.calibration_error(logits, labels) == pytest.approx(0.4)
        assert choices.losses(logits, labels) == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]))
        assert choices.entropies(logits)[0] == pytest.approx(stats.entropy([0.9, 0.1]))

    def test_calibrated_predictions_have_no_error(self) -> None:
        generator = np.random.default_rng(1)
        logits = generator.normal(size=(200_000, 4)) * 2
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = (probabilities.cumsum(axis=1) < generator.random((200_000, 1))).sum(axis=1)
        assert choices.calibration_error(logits, labels) < 0.006
        assert choices.calibration_error(3 * logits, labels) > 0.1

    def test_certain_predictions_stay_finite(self) -> None:
        logits = np.array([[1000.0, 0.0], [0.0, 1000.0]], dtype=np.float32)
        assert choices.losses(logits, np.array([0, 0])).tolist() == [0, 1000]
        assert choices.entropies(logits).tolist() == [0, 0]
        assert choices.calibration_error(logits, np.array([0, 0])) == 0.5

    def test_class_balance(self) -> None:
        assert choices.class_balance(np.array([0, 1, 2, 3]), 4) == pytest.approx(1)
        assert choices.class_balance(np.array([2, 2]), 4) == 0
        assert choices.class_balance(np.array([0, 0, 0, 1]), 2) == pytest.approx(stats.entropy([0.75, 0.25], base=2))
        assert math.isnan(choices.class_balance(np.array([], dtype=np.int64), 4))

    def test_jaccard(self) -> None:
        assert choices.jaccard(np.array([1, 2, 3]), np.array([3, 4])) == 0.25
        assert math.isnan(choices.jaccard(np.array([], dtype=np.int64), np.array([], dtype=np.int64)))

    def test_nearest_distance_is_brute_force(self) -> None:
        pixels = draw(600, 7)
        distances = np.linalg.norm(pixels[:, None] - pixels[None], axis=2) + np.diag([np.inf] * 600)
        assert choices.nearest_distance(pixels) == pytest.approx(distances.min(axis=1).mean())
        assert choices.nearest_distance(np.zeros((3, 2))) == 0
        assert math.isnan(choices.nearest_distance(pixels[:1]))

    def test_images_are_averaged_over_blocks(self) -> None:
        images = np.arange(64 * 64, dtype=np.int64).reshape(1, 64, 64, 1).astype(np.uint8)
        small = shrunk(images)
        assert small.shape == (1, 1024)
        assert small[0, 0] * 255 == pytest.approx(images[0, :2, :2].mean(), rel=1e-5)
        assert shrunk(images[:, :8, :8]).shape == (1, 64)

    def test_error_ranking_is_the_share_of_pairs_in_order(self) -> None:
        scores, wrong = draw(50).round(1), draw(50, seed=2) > 0.5
        pairs = np.sign(scores[wrong][:, None] - scores[~wrong])
        assert choices.error_ranking(scores, wrong) == pytest.approx((pairs + 1).mean() / 2)
        assert choices.error_ranking(-scores, wrong) == pytest.approx((1 - pairs).mean() / 2)
        assert math.isnan(choices.error_ranking(scores, wrong & False))

    def test_rank_correlation(self) -> None:
        assert choices.rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 4, 9])) == pytest.approx(1)
        assert math.isnan(choices.rank_correlation(np.ones(5), draw(5)))
