"""The configuration of a study that a person labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lplgrad.machine.errors import UserError
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_configuration, read_study
from tests.runs import HOME

ROW: dict[str, Any] = {
    "source": "image_folder", "path": "photos", "oracle": "person", "image_size": 64,
    "budgets": {"next": {"query_size": 50, "labels": 1010}},
}  # fmt: skip
RUN: dict[str, Any] = {"budgets": ["next"], "datasets": ["photos"], "strategies": ["entropy"], "seeds": [1]}


def file(folder: Path, run: dict[str, Any] | None = None, **row: Any) -> Path:
    path = folder / "photos.yaml"
    study = {"study": "photos", "run": {**RUN, **(run or {})}, "datasets": {"photos": {**ROW, **row}}}
    path.write_text(yaml.safe_dump(study))
    return path


def test_a_person_may_label_any_number(tmp_path: Path) -> None:
    """Whole rounds of 50 do not add up to 1010 labels, and need not."""
    study = read_study([HOME / "config.yaml", file(tmp_path)])
    assert study.person == "photos"
    assert Layout(study).source_settings("photos")["oracle"] == "person"


def test_a_simulated_study_does_not_mention_the_oracle() -> None:
    """So that files that are older than this key stay the same."""
    study = read_study([HOME / "config.yaml"])
    assert study.person is None
    row = study.model_dump(by_alias=True)["datasets"]["cdd"]
    assert "oracle" not in row
    assert "classes" not in row
    assert "oracle" not in Layout(study).source_settings("cdd")


@pytest.mark.parametrize(
    ("run", "row", "message"),
    [
        ({"strategies": ["entropy", "random"]}, {}, "run.strategies: data set 'photos' is labelled by a person, and 2"),
        ({"seeds": [1, 2]}, {}, "run.seeds: data set 'photos' is labelled by a person, and 2 seeds would"),
        ({}, {"features": "x.npz"}, "features has no effect with oracle: person"),
        ({}, {"oracle": "people"}, "datasets.photos.oracle: input should be 'simulated' or 'person', not 'people'"),
        ({}, {"classes": ["cat"]}, "datasets.photos.classes: list should have at least 2 items"),
        ({}, {"classes": ["cat", "cat"]}, "datasets.photos.classes: cat is listed twice"),
        ({}, {"oracle": "simulated", "classes": ["cat", "dog"]}, "classes has no effect with oracle: simulated"),
        ({}, {"oracle": "simulated"}, "budgets.next: labels: 1010 does not fit: round 1 has 50"),
        (
            {}, {"budgets": {"next": {"query_size": 5, "labels": 50, "start": {"size": 9}}}},
            "budgets.next: start has no effect with oracle: person; remove it",
        ),
        (
            {}, {"budgets": {"next": {"query_size": 5, "labels": 50, "target_accuracy": 0.9}}},
            "budgets.next: target_accuracy has no effect with oracle: person; remove it",
        ),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, run: dict[str, Any], row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_study([HOME / "config.yaml", file(tmp_path, run, **row)])
    assert message in str(error.value)


def test_only_some_sources_have_images_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "photos.yaml"
    row = {key: ROW[key] for key in ("oracle", "budgets")} | {"source": "cifar10"}
    path.write_text(yaml.safe_dump({"study": "photos", "run": RUN, "datasets": {"photos": row}}))
    with pytest.raises(
        UserError, match=r"datasets\.photos\.oracle: source 'cifar10' has no images without labels; a person"
    ):
        read_study([HOME / "config.yaml", path])


def test_commands_lay_a_file_over_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no recipes"):
        read_configuration([path])
    (tmp_path / "config.yaml").write_bytes((HOME / "config.yaml").read_bytes())
    assert read_configuration([path]) == read_study(["config.yaml", path])
    assert read_configuration(["config.yaml", path]) == read_study(["config.yaml", path])
