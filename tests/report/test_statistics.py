"""The page of statistics, its tables and commands, on measurements that lack something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from lplgrad.analysis.statistics import statistics
from lplgrad.report import comparison_figures, forests
from lplgrad.report import statistics as report
from lplgrad.report.document import document
from tests.made_up_study import BROKEN, HOME, NAMES, OVERLAY, STUDY, study, study_of, write_measurements


class TestReport:
    @pytest.fixture(autouse=True)
    def close_figures(self) -> Iterator[None]:
        yield
        plt.close("all")

    @pytest.mark.parametrize("name", BROKEN)
    def test_whatever_is_missing_the_page_and_figures_say_so(self, name: str) -> None:
        """Every number shown is one: nothing is NaN or infinite on the page, and nothing fails."""
        frame = BROKEN[name]()
        file = study_of(frame)
        found = statistics(frame, NAMES)
        text = str(report.parts(found, frame, file)).lower()
        assert "nan" not in text
        assert "inf" not in text.replace("influence", "")
        assert all(isinstance(table, pd.DataFrame) for table in found.tables().values())
        for draw in (forests.differences, forests.gains, comparison_figures.penalties, comparison_figures.ranks):
            draw(file, frame)

    def test_what_is_left_out_is_named(self) -> None:
        frame = BROKEN["unequal rounds"]()
        text = str(report.parts(statistics(frame, NAMES), frame, STUDY))
        assert text.count("round 4 missing") == 5

    def test_a_strategy_that_is_absent_is_named(self) -> None:
        frame = BROKEN["a strategy absent on one"]()
        parts = report.parts(statistics(frame, NAMES), frame, study_of(frame))
        assert [part.heading for part in parts if "without an area: LPLgrad" in str(part.text)] == [
            "Digits (8x8), large budget, 20 to 40 labels"
        ]

    def test_the_pairs_behind_a_difference_are_told(self) -> None:
        frame = BROKEN["a seed missing"]()
        part = next(p for p in report.parts(statistics(frame, NAMES), frame, STUDY) if "20 to 40" in p.heading)
        pairs = {row[0]: (row[1], row[4]) for row in part.rows}
        assert pairs == {"LPLgrad": ("5", "–"), "Entropy": ("5", "5"), "Random": ("4", "4")}

    def test_every_round_is_shown_with_its_interval(self) -> None:
        frame = study()
        found = statistics(frame, NAMES)
        means, differences = [part for part in report.parts(found, frame, STUDY) if part.folded]
        row = found.rounds.query("strategy == 'entropy' and labels == 30").iloc[0]
        assert means.folded_head == ("labels", "LPLgrad", "Entropy", "Random")
        assert means.folded[2][2] == f"{row['mean']:.2f} ± {row['std']:.2f}\n[{row['low']:.2f}, {row['high']:.2f}]"
        row = found.round_differences.query("baseline == 'random' and labels == 30").iloc[0]
        assert differences.folded_head == ("labels", "Entropy", "Random")
        assert differences.folded[2][2].startswith(f"{row['difference']:+.2f}\n[")
        page = document("t", [means])
        assert "<details><summary>accuracy (%)</summary>" in page

    def test_the_baseline_of_labels_saved_is_named(self) -> None:
        frame = study()
        text = str(report.parts(statistics(frame, NAMES), frame, STUDY))
        assert "Saved: how many labels fewer than Random, which labels at random" in text

    def test_significant_differences_are_bold(self) -> None:
        frame = study(gain=3)
        part = next(p for p in report.parts(statistics(frame, NAMES), frame, STUDY) if "20 to 40" in p.heading)
        assert part.rows[0][0] == "LPLgrad"
        assert {row for row, _ in part.strong} == {1, 2}

    def test_one_strategy_is_compared_with_nothing(self) -> None:
        frame = BROKEN["one strategy"]()
        found = statistics(frame, NAMES)
        pages = report.parts(found, frame, STUDY)
        assert pages[0].text[1] == "Entropy is the only strategy, so this page compares and tests nothing."
        assert [part.head for part in pages if "area (%)" in part.head] == [
            ("strategy", "seeds", "area (%)", "95 % interval")
        ]
        assert "minus" not in str(pages)
        for draw in (forests.differences, forests.gains, comparison_figures.penalties, comparison_figures.ranks):
            assert draw(STUDY, frame).axes[0].texts[0].get_text().startswith("There ")


class TestCommands:
    @pytest.fixture
    def folder(self, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]) -> Path:
        (tmp_path / "more.yaml").write_text(yaml.safe_dump(OVERLAY))
        files = (HOME / "config.yaml", HOME / "tests" / "tiny.yaml", tmp_path / "more.yaml")
        assert lplgrad("study", *files, "--output", tmp_path / "study.yaml") == (0, "")
        write_measurements(study(), tmp_path / "m.csv")
        return tmp_path

    def test_statistics(self, folder: Path, lplgrad: Callable[..., tuple[int, str]]) -> None:
        given = ["--study", folder / "study.yaml", "--measurements", folder / "m.csv", "--output", folder / "out"]
        assert lplgrad("statistics", *given, "--accuracies", 60, 72.5) == (0, "")
        assert set(pd.read_csv(folder / "out/labels_needed.csv")["accuracy"]) == {60, 72.5}
        assert len(pd.read_csv(folder / "out/areas.csv")) == 15
        assert pd.read_csv(folder / "out/left_out.csv").empty
        assert "72.5 %" in (folder / "out/statistics.html").read_text()

    def test_a_table_that_lacks_rounds_is_taken_as_partial_alone(
        self, folder: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        write_measurements(BROKEN["unequal rounds"](), folder / "m.csv")
        given = ["--study", folder / "study.yaml", "--measurements", folder / "m.csv", "--output", folder / "out"]
        status, told = lplgrad("statistics", *given)
        assert (status, told.count("\n")) == (1, 1)
        assert "m.csv: budget small, dataset digits, strategy entropy" in told
        assert "5 of 60 rows are missing, this one first; delete it and run again, or give --partial" in told
        assert not (folder / "out").exists()
        assert lplgrad("statistics", *given, "--partial") == (0, "")
        assert len(pd.read_csv(folder / "out/left_out.csv")) == 5

    def test_figures(self, folder: Path, lplgrad: Callable[..., tuple[int, str]]) -> None:
        given = ["--study", folder / "study.yaml", "--output", folder / "out.svg"]
        status, told = lplgrad("figure", "ranks", *given, "--measurements", folder / "m.csv")
        assert (status, told) == (0, "")
        assert (folder / "out.svg").read_text().startswith("<?xml")
        status, told = lplgrad("figure", "calibration", *given, "--budget", "small")
        assert (status, told.count("\n")) == (1, 1)
        assert "calibration needs --diagnostics" in told
