"""Predictions of image files: as the pipeline tests, for any interruption, and nothing is mixed or lost."""

from __future__ import annotations

import csv
import math
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lplgrad.backbones._residual import ResNet
from lplgrad.cli import parser
from lplgrad.datasets import ImageFiles
from lplgrad.machine.errors import UserError
from lplgrad.recipes import Learner
from lplgrad.rounds import evaluation
from lplgrad.rounds.checkpoints import Description, save
from lplgrad.study.settings import BackboneRow, Normalization
from lplgrad.tools.predict import confidence, list_images
from lplgrad.tools.prediction_journal import Journal
from tests.by_hand import train
from tests.image_files import noise, photos, prepare, prepare_folder, write_tiff
from tests.image_files import save as save_image
from tests.learners import PLAIN, SMALL, learner_of

pytestmark = pytest.mark.slow

Call = Callable[..., tuple[int, str]]
HOME = Path(__file__).parents[2]
SIDE = 256  # of an image; four of them are a batch
CLASSES = ["cat", "file", 'a,"b"', "entropy"]


def checkpoint(path: Path, side: int = SIDE, channels: int = 3, **about: Any) -> Path:
    """A checkpoint with first weights."""
    shape, settings = (channels, side, side), {"classes": CLASSES, "fit": "crop", **about}
    normalization = Normalization(mean=[0.5] * channels, std=[0.25] * channels)
    learner = learner_of(PLAIN, SMALL, shape, len(settings["classes"]))
    save(path, learner, Description(SMALL, PLAIN, shape, normalization, **settings))
    return path


def write_biased(path: Path, bias: float) -> None:
    """A checkpoint whose logits of the second class have another bias."""
    learner = learner_of(PLAIN, SMALL, (3, SIDE, SIDE), len(CLASSES))
    with torch.no_grad():
        learner.model.get_parameter("fc.bias")[1] = bias
    normalization = Normalization(mean=[0.5] * 3, std=[0.25] * 3)
    save(path, learner, Description(SMALL, PLAIN, (3, SIDE, SIDE), normalization, CLASSES, fit="crop"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, and eleven images of several sizes and formats."""
    checkpoint(tmp_path / "c")
    for number in range(11):
        ending = ("png", "jpg", "webp")[number % 3]
        save_image(tmp_path / "new" / f"{number:02}.{ending}", size=(40 + number, 30), seed=number)
    return tmp_path


@pytest.fixture
def predict(folder: Path, lplgrad: Call) -> Call:
    def call(output: str = "out.csv", *more: object, images: object = None, model: str = "c") -> tuple[int, str]:
        given = images if isinstance(images, list) else [images or folder / "new"]
        named = ["--checkpoint", folder / model, "--output", folder / output]
        return lplgrad("predict", "--images", *given, *named, "--threads", 2, *more)

    return call


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The logits of each batch that is passed through a network."""
    found: list[torch.Tensor] = []
    original = evaluation.predict

    def spy(learner: Learner, batches: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = original(learner, batches)
        found.append(outputs["logits"])
        return outputs

    monkeypatch.setattr("lplgrad.tools.predict.predict", spy)
    return found


def interrupt(monkeypatch: pytest.MonkeyPatch, predict: Call, after: int, half: bytes = b"") -> None:
    """End ``out.csv`` after some batches and a part of the next one."""
    original, left = Journal.add, [after]

    def add(self: Journal, file: Any, number: int, record: Any) -> None:
        if not left[0]:
            file.write(half)
            file.flush()
            raise KeyboardInterrupt
        left[0] -= 1
        original(self, file, number, record)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", add)
        assert predict()[0] == 130


class TestTable:
    def test_is_what_the_pipeline_measured(self, tmp_path: Path, lplgrad: Call, passes: list[torch.Tensor]) -> None:
        """The logits are equal to the bit, because the images have the order of the prepared test set."""
        data = prepare_folder(tmp_path, photos(tmp_path / "photos"), image_size=SIDE, test_images=6)
        labeled = tmp_path / "labeled.csv"
        drawn = ["--query-size", 3, "--seed", 1, "--output", labeled]
        assert lplgrad("start", "--data", data.folder, *drawn)[0] == 0
        small = "{backbone: {name: small_resnet, width: 4}, training: {epochs: 1, batch_size: 3, milestones: []}}"
        assert train(lplgrad, tmp_path, small)[0] == 0
        logits = np.load(tmp_path / "round1" / "test_logits.npy")
        listed = prepare("image_folder", tmp_path, path=str(tmp_path / "photos"), image_size=SIDE, test_images=6).test
        assert isinstance(listed, ImageFiles)
        files = listed.paths
        output = tmp_path / "out.csv"
        model = tmp_path / "round1" / "checkpoint.safetensors"
        arguments = ["predict", "--checkpoint", model, "--images", *files, "--output", output]
        assert lplgrad(*arguments, "--threads", 1)[0] == 0
        assert np.array_equal(torch.cat(passes).numpy(), logits)
        rows = table(output)
        assert [row["file"] for row in rows] == [str(file) for file in files]
        shares = np.exp(logits.astype(np.float64))
        shares /= shares.sum(axis=1, keepdims=True)
        for row, expected in zip(rows, shares, strict=True):
            assert [float(row[f"p({name})"]) for name in data.classes] == pytest.approx(expected, rel=6e-6)
            assert row["class"] == data.classes[expected.argmax()]
            assert row["confidence"] == row[f"p({row['class']})"]
            assert float(row["entropy"]) == pytest.approx(-(expected * np.log(expected)).sum(), rel=6e-6)

    def test_a_certain_prediction_is_not_written_as_1(self, folder: Path, predict: Call) -> None:
        write_biased(folder / "c", 20.0)
        assert predict()[0] == 0
        for row in table(folder / "out.csv"):
            others = sum(float(row[f"p({name})"]) for name in (CLASSES[0], *CLASSES[2:]))
            assert row["class"] == CLASSES[1]
            assert row["confidence"] == row[f"p({CLASSES[1]})"] != "1"
            assert 1 - float(row["confidence"]) == pytest.approx(others, rel=1e-5)
            assert 0 < others < 1e-7

    def test_names_of_classes_cannot_break_it(self, folder: Path, predict: Call) -> None:
        assert predict()[0] == 0
        with (folder / "out.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["file", "class", "confidence", "entropy", *(f"p({name})" for name in CLASSES)]
        assert len(rows) == 11
        for row in rows:
            assert len(row) == len(header)
            assert row[1] == CLASSES[max(range(4), key=lambda one: float(row[4 + one]))]
            assert sum(map(float, row[4:])) == pytest.approx(1, abs=1e-5)

    def test_names_of_files_are_lines_of_text(self, folder: Path, predict: Call) -> None:
        place = folder / "new" / "a,\nb"
        place.mkdir()
        for name in (b"\xe9\\.png", "ü.png".encode()):
            save_image(folder / "image.png").rename(place / os.fsdecode(name))
        assert predict()[0] == 0
        names = [row["file"] for row in table(folder / "out.csv")][-2:]
        assert set(names) == {r"a,\x0ab/\xe9\\.png", r"a,\x0ab/ü.png"}

    def test_does_not_depend_on_the_number_of_threads(self, folder: Path, predict: Call) -> None:
        for threads in (1, 3):
            assert predict(f"{threads}.csv", "--threads", threads)[0] == 0
        assert (folder / "1.csv").read_bytes() == (folder / "3.csv").read_bytes()

    def test_threads_share_no_attributes_of_a_network(
        self, folder: Path, predict: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert predict()[0] == 0
        original = ResNet.outputs

        def outputs(self: Any, inputs: torch.Tensor, stages: bool = False) -> Any:
            self.kept = inputs
            time.sleep(0.05)
            return original(self, self.kept, stages)

        monkeypatch.setattr(ResNet, "outputs", outputs)
        assert predict("other.csv", "--threads", 3)[0] == 0
        assert (folder / "other.csv").read_bytes() == (folder / "out.csv").read_bytes()


@pytest.mark.parametrize("exponent", [0.31, 1, 3.3, 7, 9.4, 14.9, 16.1])
def test_what_a_confidence_lacks_to_1_keeps_its_digits(exponent: float) -> None:
    rest = 10**-exponent
    text = confidence(1 - rest, rest)
    exact = Fraction(rest)
    assert abs(1 - Fraction(Decimal(text)) - exact) <= exact * Fraction(1, 10**5)
    assert len(text) <= 24


@pytest.mark.parametrize(
    ("value", "rest", "text"),
    [
        (0.25, 0.75, "0.25"), (1 / 3, 2 / 3, "0.333333"), (0.5, 0.5, "0.5"), (0.9999999, 1e-7, "0.9999999"),
        (1 - 2**-53, 2**-53, "0.999999999999999888978"), (1.0, 2**-55, "1"), (1.0, 0.0, "1"),
    ],
)  # fmt: skip
def test_confidence_is_1_only_where_a_number_of_64_bits_is(value: float, rest: float, text: str) -> None:
    assert confidence(value, rest) == text
    assert float(text) == pytest.approx(value, rel=1e-5)
    assert (float(text) == 1) == (text == "1")


class TestListing:
    def test_names_are_relative_to_a_single_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        place = photos(tmp_path / "photos")
        (place / "cat" / "again.png").symlink_to(place / "cat" / "0.png")
        found = list_images([place])
        names = [image.name for image in found]
        assert names == sorted(names, key=lambda name: Path(name).parts)
        assert len(names) == 12
        assert names[0] == "cat/0.png"
        assert "passed over 1 link(s)" in capsys.readouterr().err

    def test_names_begin_as_given_with_several_places(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        photos(tmp_path / "photos")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "scan").write_bytes(Path("photos/dog/0.jpg").read_bytes())
        places = [Path("scan"), Path("photos/dog"), tmp_path / "photos/dog/3.jpg"]
        names = [image.name for image in list_images(places)]
        assert names == ["scan", *(f"photos/dog/{number}.jpg" for number in range(6))]
        assert "passed over 1 other path(s)" in capsys.readouterr().err

    def test_nothing_there_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="no images below this folder"):
            list_images([tmp_path / "empty"])
        with pytest.raises(UserError, match="no such file or folder"):
            list_images([tmp_path / "missing"])


class TestResuming:
    @pytest.mark.parametrize(
        "half", [b"", b'[1, "ab', b'[1, "ab", "row\\n", []', bytes(100), b"[]\n", b"[7, 1, 2, 3]\n"]
    )
    def test_gives_the_same_bytes(
        self, folder: Path, predict: Call, passes: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, half: bytes
    ) -> None:
        assert predict("whole.csv")[0] == 0
        interrupt(monkeypatch, predict, 1, half)
        assert not (folder / "out.csv").exists()
        interrupt(monkeypatch, predict, 1, half)
        passes.clear()
        status, told = predict()
        assert status == 0
        assert "continuing after 8 of 11 images" in told
        assert list(map(len, passes)) == [3]
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
        assert not (folder / "out.csv.part").exists()

    def test_predicts_changed_files_again(
        self, folder: Path, predict: Call, passes: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt(monkeypatch, predict, 2)
        changed = folder / "new" / "01.jpg"
        save_image(changed, seed=77)
        os.utime(changed, ns=(1, 1))
        passes.clear()
        assert predict()[0] == 0
        assert sorted(map(len, passes)) == [3, 4], "the batch of the changed file, and the last one"
        assert predict("whole.csv")[0] == 0
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()

    @pytest.mark.parametrize("what", ["checkpoint", "list of images", "value range", "versions"])
    def test_mixes_nothing(self, folder: Path, predict: Call, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
        interrupt(monkeypatch, predict, 1)
        kept = (folder / "out.csv.part").read_bytes()
        more: list[object] = []
        if what == "checkpoint":
            checkpoint(folder / "c", classes=CLASSES[::-1])
        elif what == "list of images":
            save_image(folder / "new" / "new.png")
        elif what == "value range":
            more = ["--value-range", 0, 100]
        else:
            monkeypatch.setattr("lplgrad.tools.predict.version", lambda name: "0")
        status, told = predict("out.csv", *more)
        assert status == 1
        assert f"holds unfinished predictions with another {what};" in told
        assert (folder / "out.csv.part").read_bytes() == kept

    def test_a_file_of_somebody_else_stays(self, folder: Path, predict: Call) -> None:
        (folder / "out.csv.part").write_text("mine")
        status, told = predict()
        assert status == 1
        assert "not a file of unfinished predictions" in told
        assert (folder / "out.csv.part").read_text() == "mine"

    def test_after_a_full_disk(self, folder: Path, predict: Call) -> None:
        assert predict("whole.csv")[0] == 0
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, most))
        try:
            status, told = predict()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert status == 1
        assert re.search(r"error: \S+out.csv.part: File too large$", told.strip())
        assert predict()[0] == 0
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()

    @pytest.mark.slow
    def test_after_a_kill(self, folder: Path, predict: Call) -> None:
        for number in range(11, 150):
            Image.fromarray(noise(30, 40, 3, seed=number)).save(folder / "new" / f"{number}.png")
        assert predict("whole.csv")[0] == 0
        command = [sys.executable, "-m", "lplgrad", "predict", "--checkpoint", "c", "--images", "new", "--threads", "2"]
        part = folder / "out.csv.part"
        with subprocess.Popen([*command, "--output", "out.csv"], cwd=folder, stderr=subprocess.DEVNULL) as process:
            while not part.exists() or part.read_bytes().count(b"\n") < 5:
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        status, told = predict()
        assert status == 0
        assert re.search(r"continuing after \d+ of 150 images", told)
        assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()


class TestUnreadable:
    @pytest.fixture
    def broken(self, folder: Path) -> Path:
        found = folder / "new" / "05.webp"
        (folder / "sound").write_bytes(found.read_bytes())
        found.write_bytes(found.read_bytes()[:50])
        (folder / "new" / "gone.png").symlink_to(folder / "nowhere")
        return found

    def test_are_listed_once_all_others_are_predicted(
        self, folder: Path, predict: Call, broken: Path, passes: list[torch.Tensor]
    ) -> None:
        status, told = predict()
        assert status == 1
        assert "2 of 12 images cannot be read, the first is 05.webp (" in told
        assert "--skip-unreadable" in told
        assert not (folder / "out.csv").exists()
        listed = [line.split("\t") for line in (folder / "out.csv.unreadable.tsv").read_text().splitlines()]
        assert [name for name, _ in listed] == ["05.webp", "gone.png"]
        assert listed[1][1] == "No such file or directory"
        passes.clear()
        status, told = predict("out.csv", "--skip-unreadable")
        assert status == 0
        assert not passes, "nothing is predicted twice"
        assert "warning: 2 of 12 images cannot be read and are left out" in told
        assert len(table(folder / "out.csv")) == 10
        assert (folder / "out.csv.unreadable.tsv").exists()

    def test_change_no_other_prediction_and_can_be_repaired(
        self, folder: Path, predict: Call, broken: Path, passes: list[torch.Tensor]
    ) -> None:
        (folder / "new" / "gone.png").unlink()
        assert predict()[0] == 1
        assert predict("skipped.csv", "--skip-unreadable")[0] == 0
        (folder / "sound").rename(broken)
        passes.clear()
        assert predict()[0] == 0
        assert [len(one) for one in passes] == [4]
        assert not (folder / "out.csv.unreadable.tsv").exists()
        lines = (folder / "out.csv").read_text().splitlines()
        del lines[6]
        assert (folder / "skipped.csv").read_text().splitlines() == lines


class TestRefusals:
    def test_other_sizes_without_a_fit(self, folder: Path, predict: Call) -> None:
        checkpoint(folder / "unscaled", side=8, fit=None)
        one = save_image(folder / "one.png", size=(8, 8))
        assert predict(images=one, model="unscaled")[0] == 0
        status, told = predict(images=[one, folder / "new"], model="unscaled")
        assert status == 1
        assert "00.png: has 40x30 pixels, but the checkpoint was trained on images of 8x8" in told
        assert not (folder / "other.csv").exists()

    def test_colours_for_a_checkpoint_of_grey_images(
        self, folder: Path, predict: Call, passes: list[torch.Tensor]
    ) -> None:
        checkpoint(folder / "grey", side=8, channels=1, fit=None)
        pixels = noise(8, 8)
        Image.fromarray(pixels).save(folder / "grey.png")
        assert predict(images=folder / "grey.png", model="grey")[0] == 0
        learner = learner_of(PLAIN, SMALL, (1, 8, 8), 4)
        learner.model.eval()
        with torch.no_grad():
            expected = learner.model((torch.tensor(pixels)[None, None] / 255 - 0.5) / 0.25)
        assert passes[0].numpy() == pytest.approx(expected.numpy(), abs=1e-5)
        status, told = predict(images=save_image(folder / "colour.png", size=(8, 8)), model="grey")
        assert status == 1
        assert "colour.png: has colours" in told

    def test_numbers_whose_range_a_checkpoint_does_not_know(self, folder: Path, predict: Call) -> None:
        pixels = noise(8, 8).astype(np.uint16)
        (folder / "deep").mkdir()
        write_tiff(folder / "deep" / "one.tif", pixels)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "one.png")
        status, told = predict(images=folder / "deep")
        assert status == 1
        assert "one.tif: has unsigned 16-bit numbers" in told
        assert "--value-range" in told
        assert predict("deep.csv", "--value-range", 0, 255, images=folder / "deep")[0] == 0
        assert predict("flat.csv", images=folder / "one.png")[0] == 0
        deep, flat = (table(folder / name)[0] for name in ("deep.csv", "flat.csv"))
        assert {**deep, "file": ""} == {**flat, "file": ""}
        assert predict("out.csv", "--value-range", 1, 1, images=folder / "deep")[0] == 1

    @pytest.mark.parametrize(
        ("about", "words"),
        [
            ({"modality": "vector"}, "was trained on examples of the modality 'vector'; predict reads images"),
            ({"fit": "squeeze"}, "images were fitted by 'squeeze', which this version does not know"),
        ],
    )
    def test_checkpoints_of_other_examples(
        self, folder: Path, predict: Call, about: dict[str, Any], words: str
    ) -> None:
        checkpoint(folder / "other", side=8, **about)
        status, told = predict(model="other")
        assert status == 1
        assert words in told

    def test_logits_that_are_not_finite(self, folder: Path, predict: Call) -> None:
        write_biased(folder / "c", math.nan)
        status, told = predict()
        assert status == 1
        assert "00.png: the logits of it or of an image after it are not finite" in told

    def test_a_folder_as_output(self, folder: Path, predict: Call) -> None:
        status, told = predict("new")
        assert status == 1
        assert "new: is a folder; name the table to write" in told

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_that_is_not_there(self, folder: Path, predict: Call) -> None:
        status, told = predict("out.csv", "--device", "cuda")
        assert status == 1
        assert "torch sees no GPU" in told


class TestPage:
    def blocks(self, language: str) -> list[str]:
        text = (HOME / "docs" / "predict.md").read_text()
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)

    def test_its_commands_parse(self) -> None:
        lines = "".join(self.blocks("bash")).replace("\\\n", " ").splitlines()
        commands = [shlex.split(line) for line in lines if line.startswith("lplgrad")]
        assert [command[1] for command in commands] == ["prepare", "start", "train", "predict"]
        for command in commands:
            parser().parse_args(command[1:])

    def test_its_programs_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call) -> None:
        """On images and a table that the page makes; the model has first weights."""
        monkeypatch.chdir(tmp_path)
        write_images, load_model, from_file = self.blocks("python")
        exec(write_images, {})
        resnet18, shape = BackboneRow(name="resnet18"), (3, 8, 8)
        learner = learner_of(PLAIN, resnet18, shape, 10)
        about = Description(resnet18, PLAIN, shape, Normalization(mean=[0.3] * 3, std=[0.4] * 3), list("0123456789"))
        Path("round1").mkdir()
        save(Path("round1/checkpoint.safetensors"), learner, about)
        names: dict[str, Any] = {}
        exec(load_model, names)
        model, inputs = names["model"], torch.randn(5, 3, 8, 8)
        assert not model.training
        learner.model.eval()
        with torch.no_grad():
            assert model(inputs).numpy() == pytest.approx(learner.model(inputs).numpy(), abs=1e-5)
        given = ["--checkpoint", "round1/checkpoint.safetensors", "--images", "scans/7", "--output", "predictions.csv"]
        assert lplgrad("predict", *given)[0] == 0
        assert lplgrad("predict", *given[:3], "scans/3", "--output", "threes.csv")[0] == 0
        exec(from_file, names)
        (row,) = (row for row in table(Path("threes.csv")) if row["file"] == "1730.png")
        expected = [float(row[f"p({name})"]) for name in about.classes]
        assert names["probabilities"].numpy() == pytest.approx(expected, abs=1e-5)
        (ranking,) = (line for line in "".join(self.blocks("bash")).splitlines() if line.startswith("python -c"))
        program = shlex.split(ranking)[2]
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        rows = sorted(table(Path("predictions.csv")), key=lambda row: -float(row["entropy"]))
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["file", *(row["file"] for row in rows[:3])]
