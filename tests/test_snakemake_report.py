"""Snakemake's report of the finished tiny study, which a browser reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Browser
from tests.runs import TINY, snakemake

pytestmark = pytest.mark.slow

# Snakemake with every undefined value in a caption being an error, not an empty place.
STRICT = """
import sys
import jinja2

class Strict(jinja2.Environment):
    def __init__(self, **options):
        super().__init__(undefined=jinja2.StrictUndefined, **options)

jinja2.Environment = Strict
from snakemake.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="session")
def report(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the finished study; all that Snakemake only prints is an error here."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = subprocess.run(
        [sys.executable, "-c", STRICT, "--configfile", TINY, "--report", str(path)],
        cwd=finished, capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for word in ("WARNING", "ERROR", "Unknown target name", "Undefined", "Could not detect mimetype", "Missing"):
        assert word not in said, said
    return path


class TestReport:
    def test_it_can_be_a_zip(self, finished: Path, tmp_path: Path) -> None:
        snakemake(finished, "--report", str(tmp_path / "report.zip"))
        assert (tmp_path / "report.zip").stat().st_size > 100_000

    def test_it_needs_no_network(self, report: Path) -> None:
        assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?://", report.read_text())

    @pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian's package of that name)")
    def test_every_category_opens_in_a_browser(self, report: Path, tmp_path: Path) -> None:
        with Browser(tmp_path) as browser:
            browser.open(report)
            browser.wait_for("document.body.innerText.includes('What was compared')")
            text = browser.run("document.body.innerText")
            assert "A tiny study" in text
            assert "Ent-GradNorm" not in text, "only what runs is described"
            seen = {}
            for category in browser.run("Object.keys(categories)"):
                for subcategory in browser.run(f"Object.keys(categories[{json.dumps(category)}])"):
                    view = {"navbarMode": "subcategory", "category": category, "subcategory": subcategory}
                    browser.run(f"app.setView({json.dumps(view)})")
                    count = browser.run("document.querySelectorAll('a[iconname=information-circle]').length")
                    assert count > 0, (category, subcategory)
                    for number in range(count):
                        browser.run(f"app.setView({json.dumps(view)})")
                        browser.wait_for(f"document.querySelectorAll('a[iconname=eye]').length == {count}")
                        browser.run(f"document.querySelectorAll('a[iconname=eye]')[{number}].click()")
                        browser.run(f"document.querySelectorAll('a[iconname=information-circle]')[{number}].click()")
                        browser.wait_for("document.body.innerText.includes('DESCRIPTION')")
                        seen[category, subcategory, number] = browser.run("document.body.innerText")
            results_there = browser.run("Object.keys(results).length")
            assert browser.errors == []
        assert {category for category, _, _ in seen} == {
            "Claims", "Comparison", "Diagnostics", "Digits (8x8)", "Results", "Study",
        }  # fmt: skip
        assert {subcategory for category, subcategory, _ in seen if category.startswith("Digits")} == {
            "Chosen images", "Learning curves", "Models", "Strategies",
        }  # fmt: skip
        assert len(seen) == results_there
        for text in seen.values():
            description = text.partition("DESCRIPTION\n")[2].partition("\nSIZE")[0]
            assert len(description) > 80, text
            assert not re.search(r"\bundefined\b|\bNone\b|\{\{|\}\}|``|\bnan\b", description), description
