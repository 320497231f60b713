"""The representation of a pool in a configuration: its file, titles that say where it is missing, and chosen starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study
from lplgrad.study.titles import strategy_title
from lplgrad.study.validation import words
from tests.study.configurations import at, problem, write

HERDING = {"recipe": "plain", "acquisition": "max_herding", "title": "MaxHerding"}
START = "datasets.digits.budgets.low.start"
FEATURES = at("datasets.digits.features", "features.npz")
VECTORS = {
    "source": "vectors",
    "path": "points.npz",
    "backbone": {"name": "linear"},
    "training": {"epochs": 2, "milestones": []},
    "budgets": {"low": {"query_size": 20, "labels": 100}},
}


def study(tmp_path: Path, base: Path, *overlays: dict[str, Any]) -> Study:
    files = [write(tmp_path, f"{number}.yaml", overlay) for number, overlay in enumerate(overlays)]
    return read_study([base, *files])


def herding(datasets: list[str]) -> dict[str, Any]:
    run = {"strategies": ["herding", "random"], "datasets": datasets}
    return {"run": run, "strategies": {"herding": HERDING}}


class TestTitles:
    def test_features_of_the_own_model_are_in_the_title(self, tmp_path: Path, base: Path) -> None:
        found = study(tmp_path, base, herding(["digits"]))
        assert strategy_title(found, "herding") == "MaxHerding (own features)"
        assert strategy_title(found, "random") == "random"

    def test_a_file_or_vectors_need_no_such_words(self, tmp_path: Path, base: Path) -> None:
        assert strategy_title(study(tmp_path, base, herding(["digits"]), FEATURES), "herding") == "MaxHerding"
        both = study(tmp_path, base, at("datasets.points", VECTORS), herding(["digits", "points"]))
        assert strategy_title(both, "herding") == "MaxHerding (own features on digits)"
        assert strategy_title(
            study(tmp_path, base, at("datasets.points", VECTORS), herding(["points"])), "herding"
        ) == ("MaxHerding")


class TestJobs:
    def test_only_queries_that_need_the_file_read_it(self, tmp_path: Path, base: Path) -> None:
        layout = Layout(study(tmp_path, base, herding(["digits"]), FEATURES))
        assert layout.query_files("digits", "herding") == ["features.npz"]
        assert layout.query_settings("low", "digits", "herding")["features"] == "features.npz"
        assert layout.query_files("digits", "random") == []
        assert "features" not in layout.query_settings("low", "digits", "random")
        assert layout.start_files("low", "digits") == []
        assert layout.start_settings("low", "digits") == {}

    def test_a_start_that_is_chosen_reads_it_too(self, tmp_path: Path, base: Path) -> None:
        layout = Layout(study(tmp_path, base, FEATURES, at(START, {"by": "max_herding", "width": 0.5})))
        assert layout.start_files("low", "digits") == ["features.npz"]
        found = layout.start_settings("low", "digits")
        assert (found["acquisition"], found["features"]) == ("max_herding", "features.npz")
        assert found["options"]["width"] == 0.5

    @pytest.mark.parametrize(
        ("overlays", "reads"),
        [
            ((herding(["digits"]), FEATURES), True),
            ((FEATURES, at(START, {"by": "max_herding"})), True),
            ((FEATURES,), False),
            ((herding(["digits"]),), False),
        ],
    )
    def test_the_file_is_checked_once_the_data_set_is_there(
        self, tmp_path: Path, base: Path, overlays: tuple[dict[str, Any], ...], reads: bool,
        monkeypatch: pytest.MonkeyPatch, lplgrad: Callable[..., tuple[int, str]],
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        images = Examples(np.arange(400 * 64, dtype=np.uint8).reshape(400, 8, 8, 1), np.arange(400) % 3)
        write_dataset(Path("data/digits"), Prepared(images, images, ["0", "1", "2"], {}), modality="image")
        np.savez("features.npz", features=np.zeros((400, 2)), checksum="0" * 64)
        layout = Layout(study(tmp_path, base, *overlays))
        settings = words(layout.study_settings())
        status, told = lplgrad("study", "--settings", *settings, "--prepared", "--output", "study.yaml")
        assert (status, Path("study.yaml").exists()) == ((1, False) if reads else (0, True))
        assert ("features.npz: its checksum is not the inputs_sha256" in told) == reads

    def test_vectors_need_no_file(self, tmp_path: Path, base: Path) -> None:
        chosen = {**VECTORS, "budgets": {"low": {"query_size": 20, "labels": 100, "start": {"by": "typiclust"}}}}
        layout = Layout(study(tmp_path, base, at("datasets.points", chosen), herding(["points"])))
        assert layout.start_files("low", "points") == []
        assert "features" not in layout.start_settings("low", "points")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"by": "max_herding"}, "start.by: 'max_herding' needs a representation of the pool; name its file as"),
        ({"by": "entropy"}, "start.by: 'entropy' needs logits, and before round 1 there is no model; choose with "),
        ({"by": "random"}, "start.by: 'random' compares no examples; leave it out, and labels are drawn at random"),
        ({"by": "herding"}, "start.by: unknown acquisition 'herding'"),
        ({"by": "max_herding", "draw": "stratified"}, "start.by: draw: stratified has no effect"),
        ({"by": "max_herding", "radius": 1}, "start: unknown key 'radius'"),
        ({"by": "max_herding", "width": -1}, "start.width: input should be greater than or equal to"),
        ({"width": 1}, "start: unknown key 'width'"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_chosen_is_refused(
    tmp_path: Path, base: Path, start: dict[str, Any], words: str
) -> None:
    assert words in problem(base, write(tmp_path, "start.yaml", at(START, start)))
