"""The page of claims: every verdict, what it rests on, and the cases behind it."""

from __future__ import annotations

import math

from lplgrad.report.claims import FAILS, HOLDS, OPEN, Claim, Finding
from lplgrad.report.document import Part
from lplgrad.report.published_claims import table_three
from lplgrad.report.wording import DASH, count, p_value, signed, signed_interval

NOTE = (
    "A claim names a range of effects. In each case (a strategy against another, on one data set, with one budget, at "
    "one number of labels) it holds if the 95 % interval lies within that range, does not hold if it lies outside, and "
    "cannot be told if it reaches over the edge: then there are too few seeds. A claim about every case holds if it "
    "holds in each. It does not hold if one case contradicts it with an interval widened for the number of cases "
    "(Bonferroni); among many cases some would contradict it by chance otherwise. The case that is shown is the one "
    "that speaks most against the claim, with its 95 % interval.",
    "The paper's own numbers: Table III, mean ± what is read as the standard deviation of 5 trials, compared by "
    "Welch's method since they were not paired, rounded to one decimal as published. Tables IV, V and VI have no "
    "deviations: their effects are shown without an interval, and what chance can do is not known. Curves that are "
    "only drawn are not read off.",
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
        Part("Overview", (), head, overview, strong),
        *(_claim_part(paper, ours) for paper, ours in findings),
        _table_three_part(),
    ]


def _verdict(found: Finding) -> str:
    if found.verdict != OPEN:
        return found.verdict
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


def _range(claim: Claim) -> str:
    unit = " %" if claim.unit == "percent" or claim.baselines == "none" else " points"
    ends = [
        f"{word} {end:g}{unit}"
        for word, end in (("more than", claim.above), ("less than", claim.below))
        if end is not None
    ]
    what = "a value of" if claim.baselines == "none" else "a difference of"
    where = "on average over all cases" if claim.over == "mean" else "in every case"
    return f"{what} {' and '.join(ends)}, {where}"


def _effect_cells(found: Finding) -> list[str]:
    if not found.cases:
        return [DASH] * 5
    unit = {"accuracy": " points"}.get(found.claim.measure, " s")
    if found.claim.baselines == "none":
        absolute, relative, interval = f"{found.absolute:.2f} %", DASH, _interval(found.low, found.high)
    else:
        # The paper's times have no unit.
        shown = "" if found.claim.table == "time" and found.source == "published" else unit
        absolute = signed(found.absolute) + shown
        relative = DASH if math.isnan(found.relative) else f"{signed(found.relative, 1)} %"
        interval = signed_interval(found.low, found.high) + (" %" if found.claim.unit == "percent" else shown)
    interval = DASH if math.isnan(found.low) else interval
    return [absolute, relative, interval, _counted(found), found.about]


def _interval(low: float, high: float) -> str:
    return DASH if math.isnan(low) else f"[{low:.2f}, {high:.2f}] %"


def _counted(found: Finding) -> str:
    counts = found.counts()
    words = {HOLDS: "hold", FAILS: "do not", OPEN: "open"}
    return ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts[name])


def _case_rows(*findings: Finding) -> tuple[tuple[str, ...], ...]:
    rows = []
    for found in findings:
        source = "paper" if found.source == "published" else "this study"
        for case in found.cases:
            low, high = case.interval(found.claim)
            what = f"{case.strategy} against {case.baseline}" if case.baseline else case.strategy
            where = ", ".join(filter(None, (case.dataset, case.budget, case.at)))
            if case.baseline:
                shown = signed(case.absolute.value)
                relative = DASH if math.isnan(case.relative.value) else f"{signed(case.relative.value, 1)} %"
                interval = signed_interval(low, high)
            else:
                shown, relative, interval = f"{case.absolute.value:.2f}", DASH, _interval(low, high)
            rows.append((source, what, where, str(case.seeds), shown, relative, interval, found.claim.judge(low, high)))
    return tuple(rows)


def _table_three_part() -> Part:
    table = table_three()
    wins = int((table["significant"] & (table["difference"] > 0)).sum())
    losses = int((table["significant"] & (table["difference"] < 0)).sum())
    survive = int((table["p_holm"] < 0.05).sum())
    rows = tuple(
        (
            row["dataset"], f"{row['labels']:,}", row["baseline"], signed(row["difference"]),
            signed_interval(row["low"], row["high"]), p_value(row["p"]), p_value(row["p_holm"]),
        )
        for row in table.to_dict("records")
    )  # fmt: skip
    strong = frozenset((place, 5) for place in range(len(table)) if bool(table["significant"].iloc[place]))
    text = (
        "LPLgrad against the best other strategy in each case of the paper's Table III, by Welch's test (5 trials, ± "
        f"read as a standard deviation). Won at p < .05 without a correction: {wins}. Lost: {losses}. After Holm's "
        f"correction over the {len(table)} cases: {survive or 'none'} of them. The best other strategy was chosen by "
        "the same numbers, which makes the test a little stricter than it says.",
    )
    head = ("data set", "labels", "best other", "difference", "95 % interval", "p", "p, Holm")
    return Part("The paper's Table III, tested", text, head, rows, strong)
