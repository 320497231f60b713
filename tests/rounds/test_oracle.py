"""Who knows the labels of the training pool: the oracle, and diagnostics that declare it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import lplgrad
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.rounds.oracle import SimulatedOracle, pool_labels
from lplgrad.rounds.pool import Indices
from tests.by_hand import QUERY, Call, first_round, query, train
from tests.conftest import JOINT, replace_array

PACKAGE = Path(lplgrad.__file__).parent
# The modules that may import a name of rounds/oracle.py.
IMPORTERS = {"pool_labels": {"analysis/diagnostics.py"}, "SimulatedOracle": {"rounds/start.py", "rounds/query.py"}}
# These write and check the file itself.
OPENERS = {
    "rounds/oracle.py",
    "datasets/prepared/arrays.py",
    "datasets/prepared/writing.py",
    "datasets/prepared/file_names.py",
}


def test_the_simulated_oracle_looks_up(data: DatasetArrays) -> None:
    assert SimulatedOracle(data).answer(np.array([5, 2, 59])).tolist() == [1, 2, 3]
    assert pool_labels(data).tolist() == [index % 4 for index in range(60)]


def test_the_arrays_hide_the_labels_of_the_pool(data: DatasetArrays) -> None:
    assert data.splits["test"].labels.tolist() == [index % 4 for index in range(20)]
    with pytest.raises(LookupError, match="label files"):
        _ = data.splits["train"].labels


def test_only_these_modules_know_the_labels_of_the_pool() -> None:
    importers: dict[str, set[str]] = {name: set() for name in IMPORTERS}
    openers = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "lplgrad.rounds.oracle":
                for alias in node.names:
                    importers.setdefault(alias.name, set()).add(name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                assert not any(f"{alias.name}".endswith("oracle") for alias in node.names), f"{name}: import a name"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "_labels.npy" in node.value:
                openers.add(name)
    assert importers == IMPORTERS
    assert openers == OPENERS


def rows_of(path: Path) -> Indices:
    return np.loadtxt(path, np.int64, delimiter=",", skiprows=1)


@pytest.mark.parametrize("name", ["gradient_norm", "coreset"])
def test_labels_that_were_not_bought_change_nothing(
    data: DatasetArrays, tmp_path: Path, lplgrad: Call, name: str
) -> None:
    """A training and a query's scores, with the labels of all other images replaced."""
    first_round(lplgrad, tmp_path)
    assert query(lplgrad, tmp_path, QUERY.replace("NAME", name))[0] == 0
    labels = pool_labels(data)
    bought = rows_of(tmp_path / "labeled.csv")
    garbage = (labels + 1) % 4
    garbage[bought[:, 0]] = labels[bought[:, 0]]
    replace_array(data.folder, "train_labels", garbage)
    assert train(lplgrad, tmp_path, JOINT, output="again")[0] == 0
    checkpoint = tmp_path / "again" / "checkpoint.safetensors"
    assert query(lplgrad, tmp_path, QUERY.replace("NAME", name), "again", checkpoint=checkpoint)[0] == 0
    for file in ("checkpoint.safetensors", "test_logits.npy", "metrics.json", "scores.csv", "test_scores.csv"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "round1" / file).read_bytes(), file
    one, other = (rows_of(tmp_path / of / "next_labeled.csv") for of in ("round1", "again"))
    assert (one[:, :2] == other[:, :2]).all()
    assert np.array_equal(one[:6], bought)
    assert np.array_equal(one[6:, 2], labels[one[6:, 0]])
    assert np.array_equal(other[6:, 2], garbage[one[6:, 0]]), "what the oracle says now"


def test_a_stratified_start_asks_for_the_classes_of_the_pool(
    data: DatasetArrays, tmp_path: Path, lplgrad: Call
) -> None:
    """30 images of class 0, 20 of class 1 and 10 of class 2."""
    replace_array(data.folder, "train_labels", np.repeat([0, 1, 2], [30, 20, 10]))
    drawn = [tmp_path / f"{seed}.csv" for seed in (1, 2)]
    for seed, path in enumerate(drawn, 1):
        given = ["--query-size", 6, "--size", 12, "--draw", "stratified", "--labels", 24, "--seed", seed]
        assert lplgrad("start", "--data", data.folder, *given, "--output", path)[0] == 0
        assert sorted(rows_of(path)[:, 2].tolist()) == [0] * 6 + [1] * 4 + [2] * 2
    assert drawn[0].read_bytes() != drawn[1].read_bytes()


class TestUnknown:
    def test_a_training_leaves_them_out(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        """It equals a training on the others alone; a query takes them for bought."""
        first_round(lplgrad, tmp_path)
        whole = (tmp_path / "labeled.csv").read_text().splitlines()
        unknown = [whole[0], *(line.rpartition(",")[0] + ",-1" for line in whole[1:3]), *whole[3:]]
        for name, lines in (("some.csv", unknown), ("others.csv", [whole[0], *whole[3:]])):
            (tmp_path / name).write_text("\n".join([*lines, ""]))
            assert train(lplgrad, tmp_path, JOINT, output=name[:-4], labeled=tmp_path / name)[0] == 0
        for file in ("checkpoint.safetensors", "test_logits.npy", "metrics.json"):
            assert (tmp_path / "some" / file).read_bytes() == (tmp_path / "others" / file).read_bytes(), file
        assert '"labels": 4,' in (tmp_path / "some" / "metrics.json").read_text()
        assert '"labels": 6,' in (tmp_path / "some" / "settings.json").read_text()
        (tmp_path / "some.csv").rename(tmp_path / "labeled.csv")
        for name in ("random", "coreset"):
            assert query(lplgrad, tmp_path, QUERY.replace("NAME", name).replace("30", "all"), name)[0] == 0
            rows = (tmp_path / name / "next_labeled.csv").read_text().splitlines()
            assert rows[:7] == unknown
            assert len((tmp_path / name / "scores.csv").read_text().splitlines()) == 1 + 54

    def test_a_training_needs_one_that_is_known(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        (tmp_path / "labeled.csv").write_text("index,round,label\n3,1,-1\n5,1,-1\n")
        status, told = train(lplgrad, tmp_path, JOINT)
        assert status == 1
        assert told.splitlines()[-1].endswith(
            "labeled.csv: every label is unknown (-1); training needs one that is known"
        )
        assert not (tmp_path / "round1").exists()

    def test_a_label_of_no_class_is_refused(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        (tmp_path / "labeled.csv").write_text("index,round,label\n3,1,3\n5,1,4\n")
        for call in (train(lplgrad, tmp_path, JOINT), query(lplgrad, tmp_path, QUERY.replace("NAME", "random"))):
            assert call[0] == 1
            assert "labeled.csv: the label of index 5 is 4, but the data set has 4 classes" in call[1]
