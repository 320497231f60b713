"""What the paper's own numbers say of its claims."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lplgrad import paper
from lplgrad.paper import judging as claims
from lplgrad.paper import published_claims
from lplgrad.paper.judging import FAILS, HOLDS, NOT_PUBLISHED, OPEN, Claim

LISTED = claims.read_claims(Path(paper.__file__).with_name("claims.yaml"))


VALUE = attrgetter("value")


BY_ID = {claim.id: claim for claim in LISTED.claims}


def claim(**changes: object) -> Claim:
    about = {"id": "one", "section": "I", "says": "so", "strategies": ["lplgrad"], "baselines": ["random"], "above": 0}
    return Claim.model_validate({**about, **changes})


class TestThePapersNumbers:
    def test_table_three_by_welchs_test(self) -> None:
        """Two wins and a loss of twelve at 5 %, none after Holm's correction; p as scipy has it from the summaries."""
        table = published_claims.table_three()
        significant = table[table["significant"]].set_index(["dataset", "labels"])
        assert significant["p"].round(3).to_dict() == {
            ("cifar100", 12500): 0.005, ("svhn", 6000): 0.013, ("caltech101", 3500): 0.029,
        }  # fmt: skip
        assert (significant["difference"] > 0).tolist() == [True, False, True]
        assert len(table) == 12
        assert table["p_holm"].min() == pytest.approx(12 * table["p"].min())
        assert table["p_holm"].min() > 0.05
        theirs = stats.ttest_ind_from_stats(62.8, 0.4, 5, 61.7, 0.5, 5, equal_var=False)
        assert table["p"].min() == pytest.approx(theirs.pvalue)

    def test_what_luck_makes_of_the_best_of_five(self) -> None:
        """Without any difference Welch's test of Table III loses in 7.5 % and wins in .1 %, as the page says."""
        draws = np.random.default_rng(1).normal(size=(20_000, 6, 5))
        best = np.take_along_axis(draws, 1 + draws[:, 1:].mean(axis=2).argmax(axis=1)[:, None, None], axis=1)[:, 0]
        found = stats.ttest_ind(draws[:, 0], best, axis=1, equal_var=False)
        significant = found.pvalue < 0.05
        assert np.mean(significant & (found.statistic < 0)) == pytest.approx(0.075, abs=0.005)
        assert np.mean(significant & (found.statistic > 0)) == pytest.approx(0.001, abs=0.001)

    def test_a_loss_to_the_best_of_five_is_one_of_five_tests(self) -> None:
        rows = {(row["dataset"], row["labels"]): row for row in published_claims.table_three().to_dict("records")}
        lost, won = rows["svhn", 6000], rows["cifar100", 12500]
        assert lost["p_chosen"] == pytest.approx(5 * lost["p"])
        assert won["p_chosen"] == won["p"]

    def test_rounding_decides_some_of_table_three(self) -> None:
        """The wins stand whatever was rounded, the loss does not; nothing is certain to survive Holm's correction."""
        table = published_claims.table_three().set_index(["dataset", "labels"])
        assert table["p_low"].to_dict()["svhn", 6000] < 1e-4
        assert table["p_high"].to_dict()["svhn", 6000] == pytest.approx(0.32, abs=0.01)
        assert list(table.index[table["p_high"] < 0.05]) == [("cifar100", 12500), ("caltech101", 3500)]
        assert list(table.index[table["p_holm_low"] < 0.05]) == [("cifar100", 12500), ("svhn", 6000)]
        assert not (table["p_holm_high"] < 0.05).any()
        assert ((table["p_low"] <= table["p"]) & (table["p"] <= table["p_high"])).all()

    def test_no_rounded_numbers_leave_the_range_of_p(self) -> None:
        generator = np.random.default_rng(1)
        low, high = published_claims.rounded_p((93.7, 0.1), (93.9, 0.1))
        for _ in range(300):
            means, spreads = generator.uniform([93.65, 93.85], [93.75, 93.95]), generator.uniform(0.05, 0.15, 2)
            p = stats.ttest_ind_from_stats(means[0], spreads[0], 5, means[1], spreads[1], 5, equal_var=False).pvalue
            assert low <= p <= high

    def test_a_verdict_that_hangs_on_rounding_says_so(self) -> None:
        about = claim(strategies=["learning_loss"], baselines=["lplgrad"], datasets=["svhn"], at=6000)
        found = published_claims.found(about, LISTED.labels)
        assert found.verdict == HOLDS
        assert found.rounding_decides
        assert not published_claims.found(BY_ID["order-of-magnitude"], LISTED.labels).rounding_decides

    def test_a_deviation_of_zero_is_one_that_rounds_to_it(self) -> None:
        """SVHN at 9,000 labels: Random 89.6 ± 0.0 and LPLgrad 95.1 ± 0.0 are compared with .05 each."""
        about = claim(datasets=["svhn"], at=9000)
        (found,) = published_claims.from_paper(about, LISTED.labels)
        theirs = stats.ttest_ind_from_stats(95.1, 0.05, 5, 89.6, 0.05, 5, equal_var=False)
        assert found.absolute.p == pytest.approx(theirs.pvalue)

    def test_almost_all_is_not_all(self) -> None:
        """Coreset is said to be like Random in almost all cases: two exceptions of twelve do not deny it."""
        found = self.judged("coreset-is-random")
        assert found.counts() == {HOLDS: 4, FAILS: 2, OPEN: 6}
        assert found.verdict == OPEN

    def test_the_one_case_that_fails_is_shown(self) -> None:
        found = self.judged("best-nearly-everywhere")
        assert found.about == "lplgrad against learning_loss, svhn, high, 6,000 labels"
        assert (found.counts()[FAILS], found.verdict) == (1, OPEN)

    def judged(self, name: str) -> claims.Finding:
        return published_claims.found(BY_ID[name], LISTED.labels)

    def test_the_auxiliary_model(self) -> None:
        """The mean gain over the 24 cells of Tables V and VI is 1.9 points, 5.1 %; there are no deviations."""
        found = self.judged("auxiliary-eight-percent")
        assert len(found.cases) == 24
        assert (round(found.absolute, 1), round(found.relative, 1)) == (1.9, 5.1)
        assert max(case.absolute.value for case in found.cases) == pytest.approx(7.6)
        assert found.verdict == OPEN

    def test_caltech(self) -> None:
        found = self.judged("caltech-five-percent")
        assert found.absolute == pytest.approx(2.2)
        assert found.verdict == OPEN

    def test_an_order_of_magnitude(self) -> None:
        assert self.judged("order-of-magnitude").verdict == FAILS

    def test_numbers_that_are_not_published(self) -> None:
        for name in ("cifar10-91", "best-low-budget", "cdd-best-high"):
            assert self.judged(name).verdict == NOT_PUBLISHED

    def test_times_are_compared_as_ratios(self) -> None:
        found = self.judged("coreset-slowest")
        by_case = {(case.dataset, case.baseline): case.relative.value for case in found.cases}
        assert by_case["cifar10", "lplgrad"] == pytest.approx(100 * (2319 / 14 - 1))
        assert found.verdict == OPEN

    def test_halves(self) -> None:
        """3,000 of 10,000 labels lie in the first half, 6,000 and 9,000 in the second."""
        first, later = self.judged("svhn-learning-loss-first-half"), self.judged("svhn-learning-loss-later")
        assert [case.at for case in first.cases] == ["3,000 labels"]
        assert [case.at for case in later.cases] == ["6,000 labels", "9,000 labels"]
