"""Hold the paper's claims against numbers: the paper's own, and a study's; tables as .csv, and a page to read."""

from __future__ import annotations

import argparse
from pathlib import Path

from lplgrad import paper
from lplgrad.analysis.measured import mixed_versions, read_measurements, read_timings
from lplgrad.machine.files import write_text
from lplgrad.paper import claims_page, published_claims
from lplgrad.paper import judging as claims
from lplgrad.paper.claimed import Measured
from lplgrad.report.document import Part, document
from lplgrad.study.reading import read_study_file


def run(arguments: argparse.Namespace) -> None:
    """Read, judge and write."""

    file = read_study_file(arguments.study)
    listed = claims.read_claims(arguments.claims or Path(paper.__file__).with_name("claims.yaml"))
    measurements = read_measurements(arguments.measurements, file, arguments.partial)
    timings = read_timings(arguments.timings, file, arguments.partial) if arguments.timings else None
    measured = Measured(measurements, timings)
    findings = [
        (
            published_claims.found(claim, listed.labels),
            claims.judge(claim, "measured", claims.from_measurements(claim, measured)),
        )
        for claim in listed.claims
    ]
    flat = [found for pair in findings for found in pair]
    for name, table in (("claims", claims.verdicts(flat)), ("cells", claims.cells(flat))):
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    page = document(
        f"The paper's claims: {file.study.title}",
        [Part(text=(mixed_versions(measurements),)), *claims_page.parts(findings)],
    )
    write_text(arguments.output / "claims.html", page)
