"""Hold the paper's claims against numbers: the paper's own, and a study's; tables as .csv, and a page to read."""

from __future__ import annotations

import argparse
from pathlib import Path

from lplgrad.commands.common import add_partial

EXAMPLE = (
    "lplgrad claims --study results/demo/study.yaml --measurements results/demo/measurements.csv "
    "--timings results/demo/timings.csv --output results/demo/claims"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument("--measurements", type=Path, required=True, metavar="CSV", help="measurements.csv")
    parser.add_argument("--timings", type=Path, metavar="CSV", help="timings.csv, for claims of time")
    parser.add_argument("--claims", type=Path, metavar="FILE", help="the claims (default: the paper's)")
    add_partial(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the tables and the page")


def run(arguments: argparse.Namespace) -> None:
    """Read, judge and write."""
    from lplgrad import paper
    from lplgrad.configuration import read_study_file
    from lplgrad.files import write_text
    from lplgrad.report import claims, claims_page, published_claims
    from lplgrad.report.document import Part, document
    from lplgrad.report.measured import mixed_versions, read_measurements, read_timings
    from lplgrad.statistics.claimed import Measured

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
