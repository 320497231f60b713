"""The page of claims: every verdict, what it rests on, and the cases behind it."""

from __future__ import annotations

import math

import pandas as pd

from lplgrad.analysis.inference import ALPHA
from lplgrad.paper.judging import EXCEPTIONS, FAILS, HOLDS, OPEN, Claim, Finding
from lplgrad.paper.published_claims import table_three
from lplgrad.report.document import Part
from lplgrad.report.wording import DASH, count, interval, number, p_value, signed, signed_interval

NOTE = (
    "A claim names a range of effects. In each case (a strategy against another, on one data set, with one budget, at "
    "one number of labels) it holds if the 95 % interval lies within that range, does not hold if it lies outside, and "
    "cannot be told if it reaches over the edge: then there are too few seeds. A claim about every case holds if it "
    "holds in each, and does not if one case contradicts it with an interval widened for the number of cases "
    "(Bonferroni); among many some would by chance. A claim about most cases allows a quarter of them to be "
    "exceptions: it does not hold if more than that contradict it, and holds if all others agree, with intervals "
    "widened likewise. A claim on average is judged by the mean for each pair of strategies. The effect that is shown "
    "is the one with the most evidence against the claim, with its 95 % interval, not widened.",
    "The best other strategy is picked by the same numbers that test it, which flatters it. So the low "
    "end of the interval is the lowest of those against all others, and the high end is widened for their number.",
    "The paper's own numbers: Table III, mean ± what is read as the standard deviation of 5 trials (0.0 as 0.05), "
    "compared by Welch's method since they were not paired. How trials vary together over rounds and data sets is not "
    "published: the error of a mean is taken as the mean of the errors, the largest that it can be. Verdicts are of "
    "the numbers as printed; where others that are rounded to the same could give another verdict, it is said. Tables "
    "IV, V and VI have no deviations: their effects are shown without an interval, and what chance can do is not "
    "known. Curves that are only drawn are not read off.",
    "This study's numbers are paired by seed. A claim that names no data set is held against those that this study "
    "has, which need not be the paper's, and “holds” covers no more than was run: the cases of each claim name them.",
)


def parts(findings: list[tuple[Finding, Finding]]) -> list[Part]:
    """The page: an overview, then each claim with what the paper's numbers and this study's say of it."""
    overview = tuple(
        (paper.claim.says, paper.claim.section, _with_counts(paper), _with_counts(ours)) for paper, ours in findings
    )
    strong = frozenset(
        (row, column)
        for row, pair in enumerate(findings)
        for column, found in enumerate(pair, start=2)
        if found.verdict in (HOLDS, FAILS)
    )
    head = ("claim", "section", "by the paper's numbers", "by this study")
    return [
        Part(text=NOTE),
        Part("Overview", (), head, overview, strong, text_columns=2),
        *(_claim_part(paper, ours) for paper, ours in findings),
        _table_three_part(),
    ]


def _verdict(found: Finding) -> str:
    if found.verdict != OPEN:
        return found.verdict + (" as printed; rounding could change it" if found.rounding_decides else "")
    if found.source == "published" and math.isnan(found.low):
        return f"{OPEN}: no deviations are published"
    return f"{OPEN} with {count(found.seeds, 'seed')}"


def _with_counts(found: Finding) -> str:
    return f"{_verdict(found)}\n{_counted(found)}" if len(found.cases) > 1 else _verdict(found)


def _claim_part(paper: Finding, ours: Finding) -> Part:
    claim = paper.claim
    text = [f"Section {claim.section}." if claim.section[0] in "IV" else f"{claim.section}."]
    if claim.untested:
        return Part(claim.says, (f"{text[0]} Not tested: {claim.untested}",), level=3)
    text.append(f"Claimed: {_range(claim)}." + (f" {claim.reading}" if claim.reading else ""))
    head = ("held against", "verdict", "effect", "in percent", "95 % interval", "cases", "the effect shown")
    rows = tuple(
        (source, _verdict(found), *_effect_cells(found))
        for source, found in (("the paper's numbers", paper), ("this study", ours))
    )
    strong = frozenset((row, 1) for row, found in enumerate((paper, ours)) if found.verdict in (HOLDS, FAILS))
    return Part(claim.says, (" ".join(text),), head, rows, strong, level=3, folded=_case_rows(paper, ours))


OVER = {
    "every": "in every case",
    "most": f"in at least {100 * (1 - EXCEPTIONS):g} % of the cases",
    "mean": "for each pair of strategies on average over the cases",
}


def _range(claim: Claim) -> str:
    unit = " %" if claim.unit == "percent" else _unit(claim)
    ends = [
        f"{word} {end:g}{unit}".replace("-", "−")
        for word, end in (("more than", claim.above), ("less than", claim.below))
        if end is not None
    ]
    what = "a value of" if claim.baselines == "none" else "a difference of"
    return f"{what} {' and '.join(ends)}, {OVER[claim.over]}"


def _unit(claim: Claim) -> str:
    """Of a value or difference itself."""
    if claim.measure == "accuracy":
        return " %" if claim.baselines == "none" else " points"
    return " labels" if claim.measure == "labels_needed" else " s"


def _effect_cells(found: Finding) -> list[str]:
    if not found.cases:
        return [DASH] * 5
    claim = found.claim
    # The paper's times have no unit.
    unit = "" if claim.table == "time" and found.source == "published" else _unit(claim)
    show, between = (number, interval) if claim.baselines == "none" else (signed, signed_interval)
    return [
        _with(unit, show(found.absolute)),
        _with(" %", signed(found.relative, 1)),
        _with(" %" if claim.unit == "percent" else unit, between(found.low, found.high)),
        _counted(found),
        found.about,
    ]


def _with(unit: str, shown: str) -> str:
    return shown if shown == DASH else shown + unit


def _counted(found: Finding) -> str:
    counts = found.counts()
    words = {HOLDS: ("holds", "hold"), FAILS: ("does not", "do not"), OPEN: ("open", "open")}
    return ", ".join(f"{counts[name]} {word[counts[name] > 1]}" for name, word in words.items() if counts[name])


def _case_rows(*findings: Finding) -> tuple[tuple[str, ...], ...]:
    rows = []
    for found in findings:
        source = "paper" if found.source == "published" else "this study"
        for case in found.cases:
            show, between = (number, interval) if not case.baseline else (signed, signed_interval)
            ends = case.interval(found.claim)
            effect = show(case.absolute.value), _with(" %", signed(case.relative.value, 1)), between(*ends)
            verdict = found.claim.judge(*ends)
            rows.append((source, case.what, case.where, str(case.seeds), *effect, verdict))
    return tuple(rows)


def _table_three_part() -> Part:
    table = table_three()
    won = table["difference"] > 0
    wins, losses = table[won], table[~won]
    rows = tuple(
        (
            row["dataset"], f"{row['labels']:,}", row["baseline"], signed(row["difference"]),
            signed_interval(row["low"], row["high"]), p_value(row["p"]), _between(row["p_low"], row["p_high"]),
            p_value(row["p_chosen"]), p_value(row["p_holm"]), _between(row["p_holm_low"], row["p_holm_high"]),
        )
        for row in table.to_dict("records")
    )  # fmt: skip
    strong = frozenset((place, 5) for place in range(len(table)) if bool(table["significant"].iloc[place]))
    text = (
        "LPLgrad against the best other strategy in each case of the paper's Table III, by Welch's test (5 trials, ± "
        f"read as a standard deviation). Won at p < .05 without a correction: {_significant(wins, 'p')}. Lost: "
        f"{_significant(losses, 'p')}. After Holm's correction over the {len(table)} cases: "
        f"{_significant(table, 'p_holm')} of them.",
        "The best other strategy was chosen by the same numbers, and the best of five is partly lucky. If none "
        "differed in truth, LPLgrad would lose at p < .05 in 7.5 % of such cases instead of 2.5 %, and win in .1 %. "
        "“p, chosen” allows for that: to win is to beat each of the five, and a loss is one of five tests. So "
        f"corrected, won: {_significant(wins, 'p_chosen')}, lost: {_significant(losses, 'p_chosen')}.",
        "The table is printed with one decimal. Beside p and Holm's p stands what they can be for all numbers that are "
        f"rounded to these. Whatever was rounded, won: {_significant(wins, 'p_high')}, lost: "
        f"{_significant(losses, 'p_high')}. After Holm's correction certainly {_significant(table, 'p_holm_high')} of "
        f"the cases are significant, and with more digits {_significant(table, 'p_holm_low')} could be.",
    )
    head = (
        "data set", "labels", "best other", "difference", "95 % interval", "p", "p, as rounded", "p, chosen", "p, Holm",
        "Holm, as rounded",
    )  # fmt: skip
    return Part("The paper's Table III, tested", text, head, rows, strong)


def _significant(cases: pd.DataFrame, p: str) -> str:
    return str(int((cases[p] < ALPHA).sum()) or "none")


def _between(low: float, high: float) -> str:
    return f"{p_value(low)} to {p_value(high)}"
