"""Judge the paper's claims by its own numbers and by a study's: tables as .csv, and a page to read."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from lplgrad.analysis.inference import ALPHA
from lplgrad.analysis.measured import mixed_versions, read_measurements, read_timings
from lplgrad.machine.files import write_text
from lplgrad.paper import judging, published_claims
from lplgrad.paper.claimed import Measured
from lplgrad.paper.judging import EXCEPTIONS, FAILS, HOLDS, OPEN, Claim, Finding
from lplgrad.report.document import Part, document, paragraphs, strong_if
from lplgrad.report.wording import DASH, count, interval, number, p_value, signed
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study_file


def run(arguments: argparse.Namespace) -> None:
    """Read, judge and write."""
    file = read_study_file(arguments.study)
    listed = judging.read_claims(arguments.claims or Path(__file__).with_name("claims.yaml"))
    measurements = read_measurements(arguments.measurements, file, arguments.partial)
    timings = read_timings(arguments.timings, file, arguments.partial) if arguments.timings else None
    measured = Measured(measurements, Layout(file.study).bought, timings)
    findings = []
    for claim in listed.claims:
        ours = judging.judge(claim, "measured", judging.from_measurements(claim, measured))
        findings.append((published_claims.found(claim, listed.labels), ours))
    flat = [finding for pair in findings for finding in pair]
    for name, table in (("claims", judging.verdicts(flat)), ("cells", judging.cells(flat))):
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    caution = Part(text=(mixed_versions(measurements),))
    page = document(f"The paper's claims: {file.study.title}", [caution, *parts(findings)])
    write_text(arguments.output / "claims.html", page)


def parts(findings: list[tuple[Finding, Finding]]) -> list[Part]:
    """Lay out an overview, then each claim with the verdicts of the paper's numbers and of the study's."""
    overview = [
        (paper.claim.says, paper.claim.section, _with_counts(paper), _with_counts(ours)) for paper, ours in findings
    ]
    head = ("claim", "section", "by the paper's numbers", "by this study")
    return [
        Part(text=paragraphs(__file__, "claims")),
        Part("Overview", (), head, overview, text_columns=2),
        *(_claim_part(paper, ours) for paper, ours in findings),
        _table_three_part(),
    ]


def _verdict(found: Finding, below: str = "") -> str:
    """Write the verdict, bold if it is one, and a line below it."""
    return strong_if(found.verdict in (HOLDS, FAILS), _words(found) + below)


def _words(found: Finding) -> str:
    if found.verdict != OPEN:
        return found.verdict + (" as printed; rounding could change it" if found.rounding_decides else "")
    if found.source == "published" and math.isnan(found.low):
        return f"{OPEN}: no deviations are published"
    return f"{OPEN} with {count(found.seeds, 'seed')}"


def _with_counts(found: Finding) -> str:
    return _verdict(found, f"\n{_counted(found)}" if len(found.cases) > 1 else "")


def _claim_part(paper: Finding, ours: Finding) -> Part:
    claim = paper.claim
    text = [f"Section {claim.section}." if claim.section[0] in "IV" else f"{claim.section}."]
    if claim.untested:
        return Part(claim.says, (f"{text[0]} Not tested: {claim.untested}",), level=3)
    text.append(f"Claimed: {_range(claim)}." + (f" {claim.reading}" if claim.reading else ""))
    head = ("held against", "verdict", "effect", "in percent", "95 % interval", "cases", "the effect shown")
    sources = {"the paper's numbers": paper, "this study": ours}
    rows = [(source, _verdict(found), *_effect_cells(found)) for source, found in sources.items()]
    return Part(claim.says, (" ".join(text),), head, rows, level=3, folded=_case_rows(paper, ours))


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
    show = number if claim.baselines == "none" else signed
    return [
        _with(unit, show(found.absolute)),
        _with(" %", signed(found.relative, 1)),
        _with(" %" if claim.unit == "percent" else unit, interval(found.low, found.high, show=show)),
        _counted(found),
        found.about,
    ]


def _with(unit: str, shown: str) -> str:
    return shown if shown == DASH else shown + unit


def _counted(found: Finding) -> str:
    counts = found.counts()
    words = {HOLDS: ("holds", "hold"), FAILS: ("does not", "do not"), OPEN: ("open", "open")}
    return ", ".join(f"{counts[name]} {word[counts[name] > 1]}" for name, word in words.items() if counts[name])


def _case_rows(*findings: Finding) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for found in findings:
        source = "paper" if found.source == "published" else "this study"
        for case in found.cases:
            show = signed if case.baseline else number
            low, high = case.interval(found.claim)
            effect = show(case.absolute.value), _with(" %", signed(case.relative.value, 1))
            verdict = interval(low, high, show=show), found.claim.judge(low, high)
            rows.append((source, case.what, case.where, str(case.seeds), *effect, *verdict))
    return rows


def _table_three_part() -> Part:
    table = published_claims.table_three()
    won = table["difference"] > 0
    rows = [
        (
            row["dataset"], f"{row['labels']:,}", row["baseline"], signed(row["difference"]),
            interval(row["low"], row["high"], show=signed), strong_if(row["significant"], p_value(row["p"])),
            _between(row["p_low"], row["p_high"]), p_value(row["p_chosen"]), p_value(row["p_holm"]),
            _between(row["p_holm_low"], row["p_holm_high"]),
        )
        for row in table.to_dict("records")
    ]  # fmt: skip
    counts = {
        name: (cases.filter(regex="^p") < ALPHA).sum().replace(0, "none").to_dict()
        for name, cases in (("won", table[won]), ("lost", table[~won]), ("all", table))
    }
    text = paragraphs(__file__, "table_three", cases=len(table), **counts)
    head = (
        "data set", "labels", "best other", "difference", "95 % interval", "p", "p, as rounded", "p, chosen", "p, Holm",
        "Holm, as rounded",
    )  # fmt: skip
    return Part("The paper's Table III, tested", text, head, rows)


def _between(low: float, high: float) -> str:
    return f"{p_value(low)} to {p_value(high)}"
