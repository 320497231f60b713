"""The figures that compare strategies, read back from their axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lplgrad.machine.errors import UserError
from lplgrad.report import comparison_figures, forests, style, trial_figures
from lplgrad.study.settings import StudyFile
from tests.made_up_study import STUDY, TWO, study, study_of


class TestReport:
    @pytest.fixture(autouse=True)
    def close_figures(self) -> Iterator[None]:
        yield
        plt.close("all")

    @pytest.mark.parametrize(
        "draw", [forests.differences, forests.gains, comparison_figures.penalties, comparison_figures.ranks]
    )
    def test_the_same_numbers_draw_the_same_bytes(self, tmp_path: Path, draw: Callable[..., Any]) -> None:
        for name in ("one", "two"):
            frame = study(panels=TWO)
            figure = draw(study_of(frame), frame)
            style.save(figure, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
        for ending in ("svg", "png"):
            assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()

    def test_calibration_is_drawn_as_it_is(self) -> None:
        """Means of two seeds; the curves end at 20 labels, where the second seed of entropy does."""
        rows = [
            {
                "budget": "small", "dataset": "digits", "strategy": name, "seed": seed, "round": number,
                "labels": 10 * number, "calibration_error": 0.1 * number + 0.02 * seed, "negative_log_likelihood": 1.0,
                "entropy_loss_correlation": 0.5,
            }
            for name in ("entropy", "random")
            for seed in (1, 2)
            for number in (1, 2, 3)
            if (name, seed, number) != ("entropy", 2, 3)
        ]  # fmt: skip
        error, likelihood, correlation = comparison_figures.draw_calibration(pd.DataFrame(rows), STUDY, "small").axes
        for axis, expected in ((error, [13, 23]), (likelihood, [1, 1]), (correlation, [0.5, 0.5])):
            assert [line.get_label() for line in axis.lines] == ["Entropy", "Random"]
            for line in axis.lines:
                assert line.get_xdata().tolist() == [10, 20]
                assert line.get_ydata().tolist() == pytest.approx(expected)

    def test_bands_end_where_what_is_drawn_does(self) -> None:
        about = {"budget": "small", "dataset": "digits", "round": 1, "labels": 10}
        extremes = [
            {"calibration_error": value, "negative_log_likelihood": value, "entropy_loss_correlation": 2 * value - 1,
             "balance_labeled": value, "spread": value, "error_ranking": value}
            for value in (0.0, 1.0, 0.0)
        ]  # fmt: skip
        rows = [
            {**about, "strategy": name, "seed": seed, **values}
            for name in ("entropy", "random")
            for seed, values in enumerate(extremes, start=1)
        ]
        pairs = [
            {**about, "strategy": "entropy", "baseline": "random", "seed": seed, "jaccard": values["spread"]}
            for seed, values in enumerate(extremes, start=1)
        ]
        frame = pd.DataFrame(rows)
        drawn = comparison_figures.draw_calibration(frame, STUDY, "small").axes
        drawn += comparison_figures.draw_choices(frame, pd.DataFrame(pairs), STUDY, "small").axes
        bounds = [(0, 100), (0, math.inf), (-1, 1), (0, 1), (0, math.inf), (0, 1), (0, 1)]
        for axis, (low, high) in zip(drawn, bounds, strict=True):
            points = np.concatenate([path.vertices for band in axis.collections for path in band.get_paths()])[:, 1]
            assert points.min() == low
            assert points.max() <= high

    def test_choices_are_drawn_as_they_are(self) -> None:
        """The overlap with the reference, whichever of the pair it is; random has no ranking of errors."""
        about = {"budget": "small", "dataset": "digits", "seed": 1}
        rows, pairs = [], []
        for number in (1, 2):
            place = {**about, "round": number, "labels": 10 * (number + 1)}
            for name, ranking in (("entropy", 0.7), ("lplgrad", 0.8), ("random", math.nan)):
                values = {"balance_labeled": 0.9, "spread": 1.0 + 0.1 * number, "error_ranking": ranking}
                rows.append({**place, "strategy": name, **values})
            for one, other, jaccard in (("entropy", "lplgrad", 0.5), ("lplgrad", "random", 0.2),
                                        ("entropy", "random", 0.1)):  # fmt: skip
                pairs.append({**place, "strategy": one, "baseline": other, "jaccard": jaccard / number})
        figure = comparison_figures.draw_choices(pd.DataFrame(rows), pd.DataFrame(pairs), STUDY, "small")
        balance, spread, overlap, ranking = figure.axes
        drawn = {line.get_label(): line.get_ydata().tolist() for line in overlap.lines}
        assert drawn == {"Entropy": [0.5, 0.25], "Random": [0.2, 0.1]}
        assert overlap.get_ylabel() == "overlap with LPLgrad\n(Jaccard)"
        assert [line.get_ydata().tolist() for line in balance.lines] == [[0.9, 0.9]] * 3
        assert [line.get_ydata().tolist() for line in spread.lines[1:]] == [pytest.approx([1.1, 1.2])] * 3
        assert {line.get_label() for line in ranking.lines[1:]} == {"LPLgrad", "Entropy"}

    def test_choices_that_are_not_there_are_left_out_and_that_is_said(self) -> None:
        about = {"budget": "small", "dataset": "digits", "strategy": "random", "seed": 1, "round": 1, "labels": 20}
        known = {"balance_labeled": 0.9, "spread": math.nan, "error_ranking": math.nan}
        frame = pd.DataFrame([{**about, **known}])
        overlap = pd.DataFrame(columns=[*about, "baseline", "jaccard"])
        figure = comparison_figures.draw_choices(frame, overlap, STUDY, "small")
        assert [axis.get_ylabel() for axis in figure.axes] == ["class balance of\nthe labelled set"]
        said = " ".join(figure.get_supxlabel().split())
        assert "Overlap with Random is left out: no other strategy chose examples on its seeds." in said
        assert "Spread is left out" in said
        assert "The ranking of errors is left out" in said
        nothing = comparison_figures.draw_choices(frame.iloc[:0], overlap, STUDY, "small")
        assert "no query bought labels" in nothing.axes[0].texts[0].get_text()
        with pytest.raises(UserError, match="no budget 'smal'"):
            comparison_figures.draw_choices(frame, overlap, STUDY, "smal")

    def test_titles_with_an_underscore_first_are_in_the_legend(self) -> None:
        strategies = STUDY.study.strategies
        changed = {**strategies, "entropy": strategies["entropy"].model_copy(update={"title": "_hidden"})}
        file = StudyFile(study=STUDY.study.model_copy(update={"strategies": changed}))
        frame = study().assign(calibration_error=0.1, negative_log_likelihood=1.0, entropy_loss_correlation=0.5)
        figure = comparison_figures.draw_calibration(frame, file, "small")
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LPLgrad", "_hidden", "Random"]

    def test_correlations_with_the_loss_are_drawn_as_they_are(self) -> None:
        asked = pd.DataFrame({"loss": [1, 2, 3], "gradient_norm": [1, 2, 3], "entropy": [3, 2, 1]}, dtype=float)
        seen = [
            trial_figures.Observation(number, 10 * number, np.zeros((3, 2), np.float32), frame, pd.DataFrame())
            for number, frame in (
                (1, asked.assign(predicted_loss=math.nan)),
                (2, asked.assign(predicted_loss=math.nan, entropy=[1.0, 3, 2])),
            )
        ]
        (axis,) = trial_figures.draw_loss_correlation(seen).axes
        drawn = {line.get_label(): line.get_ydata() for line in axis.lines[:-1]}
        assert list(drawn) == ["gradient norm", "entropy"], "a model without a module predicts no loss"
        assert drawn["gradient norm"] == pytest.approx([1, 1])
        assert drawn["entropy"] == pytest.approx([-1, 0.5])
        assert list(axis.lines[0].get_xdata()) == [10, 20]
