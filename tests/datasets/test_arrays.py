"""The sources `vectors` and `series`: the user's own arrays and tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad import datasets
from lplgrad.cli import main
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.machine.errors import UserError

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(40, 3)), np.arange(40) % 4 * 10


def prepared(path: Path, source: str = "vectors", **options: Any) -> Prepared:
    kind = datasets.registry.load(source)
    return kind.prepare(kind.options(path=str(path), **options), Path())  # type: ignore[call-arg]


def part(found: Prepared, name: str) -> Examples:
    examples = getattr(found, name)
    assert isinstance(examples, Examples)
    return examples


def test_an_archive_is_split_with_its_classes_in_proportion(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=X, y=Y)
    found = prepared(tmp_path / "x.npz", test_examples=8)
    assert found.classes == ["0", "10", "20", "30"]
    train, test = part(found, "train"), part(found, "test")
    assert train.inputs.dtype == np.float32
    assert (len(train.labels), len(test.labels)) == (32, 8)
    assert np.bincount(test.labels).tolist() == [2, 2, 2, 2]
    rows = {tuple(row): label for row, label in zip(X.astype(np.float32).tolist(), Y // 10, strict=True)}
    for examples in (train, test):
        assert [rows[tuple(row)] for row in examples.inputs.tolist()] == examples.labels.tolist()
    assert len(part(prepared(tmp_path / "x.npz"), "test").labels) == 8  # a fifth
    again = part(prepared(tmp_path / "x.npz", test_examples=8), "test")
    assert np.array_equal(again.inputs, test.inputs)
    other = part(prepared(tmp_path / "x.npz", test_examples=8, split_seed=1), "test")
    assert not np.array_equal(other.inputs, test.inputs)


def test_an_archive_may_have_a_test_set_and_text(tmp_path: Path) -> None:
    names = np.array(["cat", "dog"])[Y // 10 % 2]
    np.savez(tmp_path / "x.npz", X=X[:30], y=names[:30], X_test=X[30:], y_test=names[30:])
    found = prepared(tmp_path / "x.npz")
    assert found.classes == ["cat", "dog"]
    assert np.array_equal(part(found, "test").inputs, X[30:].astype(np.float32))
    assert part(found, "train").labels.tolist() == (Y[:30] // 10 % 2).tolist()


def test_a_table(tmp_path: Path) -> None:
    lines = ["a,kind,b", *(f"{row[0]},{'NA' if label else 'yes'},{row[1]}" for row, label in zip(X, Y, strict=True))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    found = prepared(tmp_path / "x.csv", label="kind", test_examples=8)
    assert found.classes == ["NA", "yes"]
    assert {tuple(row) for row in part(found, "train").inputs.tolist()} <= {
        tuple(row) for row in X[:, :2].astype(np.float32).tolist()
    }


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"X": X}, "has no array y .it has X"),
        ({"X": X + 1e8, "y": Y}, r"column 0 .from 0. differ by .*, which float32 cannot tell apart that far from 0"),
        ({"X": (X * 100 + 2**40).astype(np.int64), "y": Y}, "subtract their mean"),
        ({"X": X, "y": Y, "X_test": X}, "only one of X_test and y_test"),
        ({"X": X, "y": Y[:-1]}, "y must be whole numbers or text of shape .40,., one for each row of X, not int64"),
        ({"X": X, "y": Y / 3}, "y must be whole numbers or text"),
        ({"X": X[:, 0], "y": Y}, "X must be numbers of shape .N, D., not float64 of .40,."),
        ({"X": X.astype(str), "y": Y}, "X must be numbers"),
        ({"X": np.where(X > 1, np.nan, X), "y": Y}, r"row \d+ has a number that is missing, infinite or too large"),
        ({"X": X * 1e300, "y": Y}, "too large for float32"),
        ({"X": X, "y": Y, "X_test": X[:, :2], "y_test": Y}, "does not fit X_test of .40, 2."),
        ({"X": X, "y": np.arange(40)}, "class '0' has 1 example"),
        ({"X": X, "y": np.array([{}] * 40)}, "not an archive of arrays that numpy.savez wrote"),
    ],
)
def test_archives_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=problem):
        prepared(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a table"),
        ("a,b\n1,2\n", "has no column 'label'; the option label names the column"),
        ("a,label\n1,x\n2,\n", "line 3 has no label"),
        ("a,label\n1,x\nred,y\n", "column 'a' is not all numbers"),
        ("a,label\n9,1,x\n8,2,y\n", "not a table"),
        (",a,label\n0,1,x\n1,2,y\n", "the first column has no name; is it the number of the row?"),
        ("a,label\n1,x\n,y\n2,x\n3,y\n", "row 1 has a number that is missing"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=problem):
        prepared(tmp_path / "x.csv")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("nothing")
    with pytest.raises(UserError, match="not an archive"):
        prepared(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(UserError, match="not an archive"):
        prepared(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("source", "backbone"),
    [
        ("vectors", "{name: linear}"),
        ("vectors", "{name: mlp, hidden: [8, 6], dropout: 0.1}"),
        ("series", "{name: resnet1d, width: 4}"),
    ],
)
@pytest.mark.parametrize("recipe", ["plain", "joint"])
def test_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, backbone: str, recipe: str) -> None:
    values = X if source == "vectors" else DRAW.normal(size=(40, 12, 2))
    np.savez(tmp_path / "x.npz", X=values, y=Y)
    data, labeled = str(tmp_path / "data"), str(tmp_path / "labeled.csv")
    options = [f"source={source}", f"path={tmp_path / 'x.npz'}", "test_examples=8"]
    assert main(["prepare", "--settings", *options, "--output", data]) == 0
    assert main(["start", "--data", data, "--query-size", "8", "--seed", "1", "--output", labeled]) == 0
    given = ["--data", data, "--labeled", labeled, "--round", "1", "--seed", "1", "--output", str(tmp_path)]
    training = ["training.epochs=2", "training.batch_size=4", "training.milestones=[]", f"recipe.trains={recipe}"]
    settings = [f"backbone={backbone}", *training]
    joint_without_stages = recipe == "joint" and "linear" in backbone
    status = main(["train", *given, "--settings", *settings])
    if joint_without_stages:
        assert status == 1
        assert "needs stages" in capsys.readouterr().err
        return
    assert status == 0
    checkpoint = ["--checkpoint", str(tmp_path / "checkpoint.safetensors")]
    chosen = ["gradient_norm", "coreset", "predicted_loss" if recipe == "joint" else "entropy"]
    for name in chosen:
        query = [f"acquisition={name}", "query_size=3", "candidates=10"]
        assert main(["query", *given, *checkpoint, "--settings", *query]) == 0


def test_the_modality_of_data_and_settings_must_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", X=X, y=Y)
    data, labeled = str(tmp_path / "data"), str(tmp_path / "labeled.csv")
    assert main(["prepare", "--settings", "source=vectors", f"path={tmp_path / 'x.npz'}", "--output", data]) == 0
    assert main(["start", "--data", data, "--query-size", "8", "--seed", "1", "--output", labeled]) == 0
    given = ["--data", data, "--labeled", labeled, "--round", "1", "--seed", "1", "--output", str(tmp_path)]
    assert main(["train", *given, "--settings", "backbone.name=small_resnet"]) == 1
    assert "holds examples of the modality 'vector', not 'image'" in capsys.readouterr().err
