"""Files and configurations from anywhere: each is read soundly or refused in one line. 3,000 damaged inputs a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lplgrad.analysis.round_files import read_test_scores
from lplgrad.cli import main
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import Examples, open_array, open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds import checkpoints
from lplgrad.rounds.files import read_labeled
from lplgrad.rounds.loop import Epoch, State
from lplgrad.rounds.optimizers import optimizer_of
from lplgrad.rounds.oracle import pool_labels
from lplgrad.rounds.resume import restore, save
from lplgrad.study.reading import read_study, read_study_file
from lplgrad.study.settings import Study, StudyFile
from lplgrad.study.validation import merge, read_yaml
from tests.conftest import CLASSES, small_images
from tests.learners import JOINT, NORMALIZATION, SMALL, TRAINING, draws_of, learner_of

HOME = Path(__file__).parents[1]
FUZZ = settings(
    max_examples=300, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with something wrong: cut off, bits turned, parts missing, doubled or foreign; or another altogether."""
    kind = draw(st.sampled_from(["cut", "turn", "drop", "insert", "double", "foreign"]))
    # The beginning, where formats describe themselves, is hit as often as all the rest.
    place = draw(st.integers(0, min(300, len(whole) - 1)) | st.integers(0, len(whole) - 1))
    length = draw(st.integers(1, 40))
    if kind == "cut":
        return whole[:place]
    if kind == "turn":
        return whole[:place] + bytes([whole[place] ^ draw(st.integers(1, 255))]) + whole[place + 1 :]
    if kind == "drop":
        return whole[:place] + whole[place + length :]
    if kind == "insert":
        return whole[:place] + draw(st.binary(min_size=1, max_size=40)) + whole[place:]
    if kind == "double":
        return whole[:place] + whole[place : place + length] + whole[place:]
    return draw(st.binary(max_size=200))


def read_or_refuse(read: Callable[[], Any]) -> Any:
    """What was read; None where it was refused, in one line. Anything but a ``UserError`` is a bug."""
    try:
        return read()
    except UserError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == 1, refusal
    assert len(refusal) <= 1000
    return None


LABELED = b"index,round,label\n" + b"".join(b"%d,%d,%d\n" % (k * 7 % 60, 1 + k // 10, k % 5 - 1) for k in range(30))


@FUZZ
@given(data=damaged(LABELED))
@example(b"index,round,label\n1,1,1\r\n")
@example(b"index,round,label\n1,1,1\n\x0c2,1,1\n")
@example(b"index,round,label\n1,1,1\n\n")
@example("index,round,label\n1,1,1\n2,1,1\u2028".encode())
@example(b'index,round,label\n"1",1,1\n')
@example(b"index,round,label\n1,9999999999999999999999,1\n")
@example(b"index,round,label\n1,1,-01\n")
def test_labels(tmp_path: Path, data: bytes) -> None:
    """The oracle is the grammar: nothing but it is accepted."""
    path = tmp_path / "labeled.csv"
    path.write_bytes(data)
    found = read_or_refuse(lambda: read_labeled(path, 60, 4))
    rows = re.fullmatch(rb"index,round,label\n((?:[0-9]+,[0-9]+,(?:-1|[0-9]+)\n)+)", data)
    if found is not None:
        assert rows
        values = [[int(cell) for cell in line.split(b",")] for line in rows[1].splitlines()]
        assert values == np.stack([found.indices, found.rounds, found.labels], axis=1).tolist()
        assert len({index for index, *_ in values}) == len(values)
        assert all(index < 60 and number >= 1 and label < 4 for index, number, label in values)


TEST_SCORES = b"index,score,loss\n" + b"".join(b"%d,%de-05,0.%d\n" % (index, 7 * index, index) for index in range(30))


@FUZZ
@given(data=damaged(TEST_SCORES))
@example(TEST_SCORES.replace(b"1,7e-05", b"1,inf"))
@example(TEST_SCORES.replace(b"1,7e-05", b"1,1_0"))
@example(TEST_SCORES.replace(b"1,7e-05", b"1, 7"))
def test_scores_of_test_images(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "test_scores.csv"
    path.write_bytes(data)
    found = read_or_refuse(lambda: read_test_scores(path, 30))
    if found is not None:
        number = rb"-?([0-9]+(\.[0-9]+)?(e[+-][0-9]+)?|inf|nan)"
        assert re.fullmatch(rb"index,score,loss\n([0-9]{1,18},%b,%b\n){30}" % (number, number), data)
        values = np.array([[float(cell) for cell in line.split(b",")[1:]] for line in data.splitlines()[1:]])
        assert np.array_equal(values, np.stack(found, axis=1), equal_nan=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    learner = learner_of(JOINT, classes=3)
    checkpoints.save(path, learner, checkpoints.Description(SMALL, JOINT, (1, 8, 8), NORMALIZATION, ["a", "b", "c"]))
    return path.read_bytes()


def change_header(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """A safetensors file whose header's JSON is another; the tensors stay."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def other_value(draw: st.DrawFn, whole: Any) -> Any:
    """A document with one value replaced by anything, left out, or a key added."""
    document = json.loads(json.dumps(whole))
    place: Any = None
    key: Any = None
    inner = document
    while isinstance(inner, dict | list) and len(inner) and (place is None or draw(st.integers(0, 3))):
        place = inner
        key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))))
        inner = inner[key]
    kind = draw(st.sampled_from(["replace", "remove", "add"]))
    if kind == "remove":
        del place[key]
    elif kind == "add" and isinstance(place, dict):
        place[draw(st.text(max_size=5))] = draw(JSON)
    else:
        place[key] = draw(JSON)
    return document


def test_a_checkpoint_without_classes_is_refused(tmp_path: Path, checkpoint: bytes) -> None:
    """PyTorch would only warn of a layer without outputs, and only once in a process."""
    length = int.from_bytes(checkpoint[:8], "little")
    described = json.loads(json.loads(checkpoint[8 : 8 + length])["__metadata__"]["lplgrad"])
    other = {"__metadata__": {"lplgrad": json.dumps({**described, "classes": []})}}
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(change_header(checkpoint, lambda header: {**header, **other}))
    with pytest.raises(UserError, match="does not describe its model"):
        checkpoints.load(path)


@FUZZ
@given(data=st.data())
def test_checkpoints(tmp_path: Path, checkpoint: bytes, data: st.DataObject) -> None:
    path = tmp_path / "checkpoint.safetensors"
    if data.draw(st.booleans()):
        broken = data.draw(damaged(checkpoint))
    else:
        length = int.from_bytes(checkpoint[:8], "little")
        described = json.loads(json.loads(checkpoint[8 : 8 + length])["__metadata__"]["lplgrad"])
        other = data.draw(other_value(described))
        broken = change_header(checkpoint, lambda header: {**header, "__metadata__": {"lplgrad": json.dumps(other)}})
    path.write_bytes(broken)
    found = read_or_refuse(lambda: checkpoints.load(path))
    if found is not None:
        assert len(broken) >= len(checkpoint) - 200, "nothing that is cut off is accepted"
        assert len(found.learner.model.get_parameter("fc.weight")) == len(found.about.classes)
        normalization = found.about.normalization
        assert len(normalization.mean) == len(normalization.std)


def fresh_state() -> State:
    learner, draws = learner_of(JOINT, classes=3), draws_of()
    learner.begin(TRAINING, lambda network: optimizer_of(TRAINING, network.parameters()), nullcontext)
    draws.begin_epoch(0)
    draws.labeled()
    return State(learner, draws, epochs=9)


@pytest.fixture(scope="module")
def progress(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("progress") / "progress.safetensors"
    state = fresh_state()
    state.epoch, state.last = 4, Epoch(4, {"loss": 0.5, "pair loss": 0.25}, 0.1)
    save(state, path, "same", 1.5, ["a card"])
    return path.read_bytes()


@FUZZ
@given(data=st.data())
def test_progress(tmp_path: Path, progress: bytes, data: st.DataObject) -> None:
    path = tmp_path / "progress.safetensors"
    if data.draw(st.booleans()):
        broken = data.draw(damaged(progress))
    else:
        length = int.from_bytes(progress[:8], "little")
        described = json.loads(json.loads(progress[8 : 8 + length])["__metadata__"]["lplgrad"])
        other = data.draw(other_value(described))
        broken = change_header(progress, lambda header: {**header, "__metadata__": {"lplgrad": json.dumps(other)}})
    path.write_bytes(broken)
    state = STATE
    state.epoch = 0
    seconds = read_or_refuse(lambda: restore(state, path, "same"))
    if seconds is not None:
        assert 1 <= state.epoch < state.epochs
        assert 0 <= seconds[0] < float("inf")
        state.draws.begin_epoch(state.epoch)
        state.draws.labeled()
    else:
        assert state.epoch == 0


STATE = fresh_state()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    images: list[Examples] = [small_images(20, 1), small_images(8, 2)]
    write_dataset(folder, Prepared(images[0], images[1], [f"class{k}" for k in range(CLASSES)], {}))
    return folder


@FUZZ
@given(data=st.data())
def test_data_sets(prepared: Path, data: st.DataObject) -> None:
    """Manifest, images or labels damaged; what is accepted is what the manifest says and fit to be trained on."""
    name = data.draw(st.sampled_from(["dataset.json", "dataset.json", "train_labels.npy", "test_inputs.npy"]))
    path = prepared / name
    whole = path.read_bytes()
    if name == "dataset.json" and data.draw(st.booleans()):
        path.write_text(json.dumps(data.draw(other_value(json.loads(whole)))))
    else:
        path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_or_refuse(lambda: open_dataset(prepared))
        if found is not None:
            for split, count in ((found.splits["train"], 20), (found.splits["test"], 8)):
                assert split.inputs.shape == (count, 8, 8, 1)
                assert split.inputs.dtype == np.uint8
            for labels, count in ((pool_labels(found), 20), (found.splits["test"].labels, 8)):
                assert labels.shape == (count,)
                assert 0 <= labels.min() <= labels.max() < len(found.classes)
            assert len(found.mean) == len(found.std) == 1
            assert all(np.isfinite(value) for value in found.mean)
            assert all(np.isfinite(value) and value > 0 for value in found.std)
    finally:
        path.write_bytes(whole)


BASE = merge(yaml.safe_load((HOME / "config.yaml").read_text()), yaml.safe_load((HOME / "tests/tiny.yaml").read_text()))
NAMES = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def stays_in_its_folder(study: Study) -> None:
    """Every name that becomes a folder is a plain word."""
    for name in [study.study, *study.recipes, *study.strategies, *study.datasets, *study.run.budgets]:
        assert NAMES.fullmatch(name)
        assert name != "start"


@FUZZ
@given(values=other_value(BASE))
@example({**BASE, "study": "../x"})
@example({**BASE, "study": "x\n"})
@example({**BASE, "study": "/etc"})
@example({**BASE, "study": "$(id)"})
@example({**BASE, "study": "a b"})
@example({**BASE, "study": "start"})
@example({**BASE, "study": ""})
def test_configurations(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values))
    study = read_or_refuse(lambda: read_study([path]))
    if study is not None:
        stays_in_its_folder(study)
        assert Study.model_validate(study.model_dump(by_alias=True)) == study
        assert all(name in study.datasets for name in study.run.datasets)


TINY = (HOME / "tests/tiny.yaml").read_bytes()


@FUZZ
@given(data=damaged(TINY))
@example(b"study: &a [*a]")
@example(b"? [1, 2]\n: 3")
@example(b"? {a: b}\n: 3")
@example(b"2024-13-45: 1")
@example(b"study: 2024-13-45")
@example(b"!!python/object/apply:os.system [true]")
@example(b"[" * 3000)
@example(b"study: tiny\x00")
@example(b"\xff\xfe")
@example(b"study: !!binary x")
@example(b"<<: 3")
@example(b"<<: [1]")
@example(b"study: !!int x")
@example(b"run: !!set {a, b}")
@example(b"? !!omap [a]\n: 1")
@example(b"1: 2")
@example(b"run: {1: 2}")
def test_text_of_configurations(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(data)
    study = read_or_refuse(lambda: read_study([HOME / "config.yaml", path]))
    if study is not None:
        stays_in_its_folder(study)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_written_studies(tmp_path: Path, data: st.DataObject) -> None:
    file = StudyFile(study=Study.model_validate(BASE), unavailable={"cdd": "not there"}).model_dump(by_alias=True)
    path = tmp_path / "study.yaml"
    if data.draw(st.booleans()):
        path.write_text(json.dumps(data.draw(other_value(file))))
    else:
        path.write_bytes(data.draw(damaged(yaml.safe_dump(file).encode())))
    found = read_or_refuse(lambda: read_study_file(path))
    if found is not None:
        stays_in_its_folder(found.study)


@FUZZ
@given(data=damaged(b'{"accuracy": 0.5, "labels": 10, "stopped": false, "per_class": {"a": 1.5e-3, "b": null}}\n'))
@example(b"[" * 100_000)
@example(b'{"x": 1' + b"0" * 5000 + b"}")
def test_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(data)
    found = read_or_refuse(lambda: read_json(path))
    assert found is None or isinstance(found, dict)


@FUZZ
@given(text=st.text(max_size=60))
@example("{a: &x [*x]}")
def test_settings_on_the_command_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A whole command: one line, status 1."""
    read_or_refuse(lambda: read_yaml(text, "--settings"))
    status = main(["study", f"--settings={text}"])
    told = capsys.readouterr().err
    assert status == 1
    assert told.startswith("lplgrad study: error: ")
    assert len(told.splitlines()) == 1


def test_arrays_with_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert read_or_refuse(lambda: open_array(tmp_path / "x.npy", mapped=False)) is None
