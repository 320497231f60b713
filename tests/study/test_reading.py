"""How configuration files, the command line and settings by hand are read and merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict

from lplgrad.machine.errors import UserError
from lplgrad.study.reading import read_study, read_study_file
from lplgrad.study.settings import StudyFile, Training
from lplgrad.study.validation import Settings, parse_settings, words
from tests.study.configurations import BASE, at, problem, write

TRAINING = "datasets.digits.training"


def test_the_file_at_fault_is_the_one_named(base: Path, tmp_path: Path) -> None:
    good = write(tmp_path, "good.yaml", {"title": "Another"})
    bad = write(tmp_path, "bad.yaml", at("run.seeds", [1, 1]))
    assert problem(base, bad, good).startswith(str(bad))
    assert problem(base, good, bad).startswith(str(bad))
    broken = copy.deepcopy(BASE)
    broken["run"]["seeds"] = []
    assert problem(write(tmp_path, "base.yaml", broken), good).startswith(str(tmp_path / "base.yaml"))


def test_an_overlay_alone_is_told_what_to_be_laid_over(base: Path, tmp_path: Path) -> None:
    over = write(tmp_path, "over.yaml", {"run": {"seeds": [1]}})
    assert problem(over) == f"{over}: no recipes; name the file that it is laid over before it: config.yaml {over}"
    assert problem(write(tmp_path, "empty.yaml", {})).endswith("config.yaml " + str(tmp_path / "empty.yaml"))


def test_the_command_line_comes_last_and_is_named(base: Path) -> None:
    assert read_study([base], {"run": {"seeds": [7]}}).run.seeds == [7]
    with pytest.raises(UserError, match=r"^--config: run.seeds: 7 is listed twice"):
        read_study([base], {"run": {"seeds": [7, 7]}})
    # Snakemake hands these over as text: --config keep_checkpoints=true 'run={seeds: [3, 4]}'
    given = read_study([base], {"keep_checkpoints": "true", "run": {"seeds": ["3", "4"]}, "title": "1: a"})
    assert (given.keep_checkpoints, given.run.seeds, given.title) == (True, [3, 4], "1: a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", "line 1, column 9: expected the node content"),
        ("study: a\n  b: c", "line 2, column 4: mapping values are not allowed here"),
        ("study: a\n\tb: c", "line 2, column 1: "),
        ("study: a\nstudy: b", "line 2, column 1: key 'study' stands twice"),
        ("run:\n  seeds: [1]\n  seeds: [2]", "line 3, column 3: key 'seeds' stands twice"),
        ("!!python/object/apply:os.system ['true']", "line 1, column 1: could not determine a constructor"),
        ("just words", "expected keys and values at the top level"),
        ("", "expected keys and values at the top level"),
        ("- 1\n- 2", "expected keys and values at the top level"),
        ("a: 2026-99-99", "not YAML: month must be in 1..12"),
        ("a: \x00", "not YAML: "),
        ("__use_yte__: true\n__definitions__: [import os]", "unknown key '__use_yte__'"),
    ],
)
def test_what_does_not_parse_names_the_line(base: Path, tmp_path: Path, text: str, message: str) -> None:
    told = problem(base, write(tmp_path, "over.yaml", text))
    assert told.startswith(f"{tmp_path / 'over.yaml'}: {message}")


def test_a_few_aliases_of_aliases_are_no_billion_values(base: Path, tmp_path: Path) -> None:
    lines = ["a0: &a0 {b: 1}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    told = problem(base, write(tmp_path, "bomb.yaml", "\n".join(lines)))
    assert "bomb.yaml: more than 1,000,000 values, its aliases written out" in told
    assert "unknown key 'a0'" in problem(base, write(tmp_path, "few.yaml", "\n".join(lines[:2])))


def test_not_a_text_file(base: Path, tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_bytes(b"\xff\xfe\x00")
    assert problem(base, tmp_path / "over.yaml").endswith("not a text file in UTF-8")


def test_numbers_in_scientific_notation_without_a_dot_are_numbers(base: Path, tmp_path: Path) -> None:
    """YAML 1.1 takes 5e-4 for a string."""
    over = write(tmp_path, "over.yaml", "datasets: {digits: {training: {weight_decay: 5e-4, learning_rate: 1E-2}}}")
    training = read_study([base, over]).datasets["digits"].training
    assert (training.weight_decay, training.learning_rate) == (5e-4, 1e-2)


def test_dictionaries_merge_and_lists_replace(base: Path, tmp_path: Path) -> None:
    over = write(tmp_path, "over.yaml", {"run": {"seeds": [9]}, **at(f"{TRAINING}.epochs", 70)})
    study = read_study([base, over])
    assert study.run.seeds == [9]
    assert study.run.strategies == ["lplgrad", "random"]
    assert study.datasets["digits"].training.epochs == 70
    assert study.datasets["digits"].training.milestones == [48]


def test_merging_is_snakemakes(base: Path) -> None:
    from snakemake.utils import update_config

    from lplgrad.study.validation import merge

    over = {"run": {"seeds": [9]}, "recipes": {"new": {"trains": "plain"}}, "title": {"odd": 1}, "datasets": 5}
    theirs = copy.deepcopy(BASE)
    update_config(theirs, over)
    assert merge(BASE, over) == theirs


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("data", "data"), ("data/", "data"), ("./data", "data"), ("a//b/.//", "a/b"), ("../data", "../data"),
        ("/", "/"), ("/some/where/", "/some/where"), ("/some/where", "/some/where"), ("~/data/", "/home/me/data"),
        ("HERE/data", "data"), ("HERE/a/b/", "a/b"), ("HERE/../data", "data"), ("LINK/a", "a"), ("HERE", "."),
        ("big", "big"), ("HERE/big", "big"), ("BIG", "BIG"),
    ],
)  # fmt: skip
def test_a_folder_of_data_is_written_in_one_way(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, kept: str
) -> None:
    """A link to the working directory is the same folder; a link below it keeps its name."""
    here, disk = tmp_path / "here", tmp_path / "disk"
    here.mkdir()
    disk.mkdir()
    (tmp_path / "link").symlink_to(here)
    (here / "big").symlink_to(disk)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/me")
    for name, folder in (("HERE/..", here / "../here"), ("HERE", here), ("LINK", tmp_path / "link"), ("BIG", disk)):
        given, kept = given.replace(name, str(folder)), kept.replace(name, str(folder))
    assert read_study([base, write(tmp_path, "mine.yaml", {"data_dir": given})]).data_dir == kept


def test_words_of_a_command_line_are_the_settings() -> None:
    values: dict[str, Any] = {
        "text": "a 'b' \"c\" {d} \n\t\\ $HOME = <é🐱\u2028\x85\x7f", "none": None, "map": {}, "list": [],
        "number": 1e-05,
        "deep": {"er": {"yes": True, "numbers": [1, 2.5, "3"], "empty": {}}, "no-dash_1": "x=y"},
    }  # fmt: skip
    found = words(values)
    assert {"deep.er.yes=true", "none=null", "map={}", "list=[]", 'deep.no-dash_1="x=y"'} <= set(found)
    assert parse_settings(Anything, found).model_dump() == values
    assert list(parse_settings(Anything, found).model_dump()) == list(values), "study.yaml keeps the order"


class Anything(Settings):
    model_config = ConfigDict(extra="allow")

    @classmethod
    def option_keys(cls, values: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["epochs=3", "batch_size=8", "milestones=[]"], ""),
        (["{epochs: 3, milestones: []}", "batch_size=8"], ""),
        (["learning_rate=5e-4", "milestones=[1, 2]"], ""),
        ([], ""),
        ([""], ""),
        (["epochs"], "--settings: expected keys and values, not 'epochs'"),
        (["epochs=3", "[]", "[1]"], "--settings: expected keys and values, not '[1]'"),
        (["epochs=3", "epochs=4"], "--settings: epochs is given twice"),
        (["epoch=3"], "--settings: unknown key 'epoch' (did you mean 'epochs'?)"),
        (["epochs=three"], "--settings: epochs: input should be a valid integer, not 'three'"),
        (["epochs=["], "--settings: epochs: line 1, column 2: expected the node content"),
        (["epochs.more=3"], "--settings: epochs: input should be a valid integer, not {'more': 3}"),
    ],
)
def test_settings_by_hand(given: list[str], message: str) -> None:
    if message:
        with pytest.raises(UserError) as caught:
            parse_settings(Training, given)
        assert str(caught.value).startswith(message)
    else:
        assert isinstance(parse_settings(Training, given), Training)


def test_a_study_file_comes_back(base: Path, tmp_path: Path) -> None:
    study = read_study([base])
    file = StudyFile(study=study, unavailable={"cdd": "not placed"})
    path = write(tmp_path, "study.yaml", file.model_dump(by_alias=True))
    assert read_study_file(path) == file
