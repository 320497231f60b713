"""The review of a study that a person labels: its tables, and what it says when there is little to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.report.review import confusions, suspicious_labels
from lplgrad.rounds.pool import LabeledSet
from lplgrad.study.validation import words
from tests.labeling.loop import Call, Loop, photos

INTS = np.array


def test_confusions() -> None:
    labels, predictions = INTS([0, 0, 0, 1, 1, 2]), INTS([0, 1, 1, 1, 2, 0])
    found = confusions(labels, predictions, ["cat", "dog", "owl"])
    assert found.to_numpy().tolist() == [["cat", "dog", 2, 3], ["dog", "owl", 1, 2], ["owl", "cat", 1, 1]]
    assert confusions(labels, labels, ["cat", "dog", "owl"]).empty


def scores(*rows: tuple[int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["index", "confidence", "predicted_class"])


def test_suspicious_labels() -> None:
    """Image 4 contradicts surely, 5 unsurely, 6 agrees, 7 is unknown, 8 was no candidate, and 1 is of round 1."""
    labeled = LabeledSet(INTS([1, 4, 5, 6, 7, 8]), INTS([1, 2, 2, 2, 2, 2]), INTS([0, 0, 0, 1, -1, 1]))
    names = [f"{number}.png" for number in range(10)]
    given = scores((1, 0.99, 1), (4, 0.9, 1), (5, 0.4, 1), (6, 0.8, 1), (7, 0.9, 0))
    found, compared = suspicious_labels(labeled, [given], ["cat", "dog"], names)
    assert found.to_numpy().tolist() == [[4, "4.png", 2, "cat", "dog", 0.9]]
    assert compared == 3
    without = scores(*((number, np.nan, np.nan) for number in (4, 5, 6)))
    found, compared = suspicious_labels(labeled, [without], ["cat", "dog"], names)
    assert (len(found), compared) == (0, 0)


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call, request: pytest.FixtureRequest) -> Path:
    """The review of round 1, with so many test images of each of three classes."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", test=request.param)
    loop = Loop(lplgrad)
    loop.begin()
    layout, trial = loop.layout, loop.trial
    recipe = loop.study.strategies["random"].recipe
    todo = [
        ("train", "--data", "data/photos", "--labeled", layout.labels(trial, 1), "--round", 1, "--seed", 1,
         "--pool", layout.pool(trial, 1), "--settings", *words(layout.training_settings("photos", recipe)),
         "--output", layout.trained(trial, 1)),
        ("study", "config.yaml", "photos.yaml", "--output", "study.yaml"),
        ("review", "--study", "study.yaml", "--output", "review"),
    ]  # fmt: skip
    Path("config.yaml").write_bytes((Path(__file__).parents[2] / "config.yaml").read_bytes())
    for arguments in todo:
        status, said = lplgrad(*arguments)
        assert status == 0, said
    return tmp_path / "review"


@pytest.mark.parametrize("reviewed", [2], indirect=True)
def test_few_test_images_give_no_accuracy(reviewed: Path) -> None:
    page, table = (reviewed / "review.html").read_text(), pd.read_csv(reviewed / "rounds.csv")
    assert "There are only 6 test images" in page
    assert "right for" not in page
    assert "wrong for" not in page
    assert table["test_images"].tolist() == [6]
    assert table[["accuracy", "low", "high"]].isna().all(axis=None)
    assert not (reviewed / "curve.svg").exists()


@pytest.mark.parametrize("reviewed", [10], indirect=True)
def test_an_accuracy_has_its_interval(reviewed: Path) -> None:
    page, table = (reviewed / "review.html").read_text(), pd.read_csv(reviewed / "rounds.csv")
    row = table.iloc[0]
    right = row["accuracy"] * 30
    assert right == pytest.approx(round(right), abs=1e-3)
    assert row["low"] < row["accuracy"] <= row["high"] <= 1
    assert f"right for {100 * row['accuracy']:.1f} % of the 30 test images" in page
    assert "held out of the images" not in page
    assert "No label can be compared with a prediction" in page
    assert "4 images wait for a label" in page
    data = open_dataset(Path("data/photos"))
    wrong = pd.read_csv(reviewed / "confusions.csv")["images"].sum()
    assert wrong == len(data.splits["test"].labels) - round(right)
