"""Sources of images on tiny files in the exact formats of the real ones, and on all that can be wrong with them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad import datasets
from lplgrad.datasets import ImageFiles, _torchvision
from lplgrad.datasets._split import stratified_split
from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import UserError
from lplgrad.study.availability import unavailable_datasets
from lplgrad.study.reading import read_study
from tests.image_files import noise, prepare, save

Call = Callable[..., tuple[int, str]]


def unavailable(name: str, downloads: Path, **options: Any) -> str | None:
    source = datasets.registry.load(name)
    return source.unavailable(source.options(**options), downloads)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class TestCifar:
    """Pickled batches of flattened planes, labels in lists, names in a file beside them; checked by MD5."""

    @pytest.fixture(params=["CIFAR10", "CIFAR100"])
    def placed(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[str, Path]:
        import torchvision

        kind = getattr(torchvision.datasets, request.param)
        ten = request.param == "CIFAR10"
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        classes = [f"name{k}" for k in range(10 if ten else 100)]
        count = 20 if ten else 100
        for part, files in (("train_list", kind.train_list), ("test_list", kind.test_list)):
            listed = []
            for number, (name, _) in enumerate(files):
                labels = [k % len(classes) for k in range(count)]
                batch = {"data": noise(count, 3072, seed=number), "labels" if ten else "fine_labels": labels}
                (folder / name).write_bytes(pickle.dumps(batch))
                listed.append([name, md5(folder / name)])
            monkeypatch.setattr(kind, part, listed)
        key = "label_names" if ten else "fine_label_names"
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps({key: classes}))
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
        return request.param, tmp_path

    def test_images_labels_and_names(self, placed: tuple[str, Path]) -> None:
        name, folder = placed
        prepared = prepare(name.lower(), folder)
        batches = 5 if name == "CIFAR10" else 1
        assert not isinstance(prepared.train, ImageFiles)
        assert prepared.train.inputs.shape == (len(prepared.train.labels), 32, 32, 3)
        assert len(prepared.train.labels) == batches * len(prepared.test.labels)
        planes = noise(20 if batches == 5 else 100, 3072, seed=0).reshape(-1, 3, 32, 32)
        assert np.array_equal(prepared.train.inputs[: len(planes)], planes.transpose(0, 2, 3, 1))
        assert prepared.classes[7] == "name7"
        assert prepared.train.labels[9] == 9
        write_dataset(folder / "data", prepared)
        assert open_dataset(folder / "data").splits["train"].inputs.shape[1:] == (32, 32, 3)

    def test_a_changed_file_is_refused(self, placed: tuple[str, Path]) -> None:
        name, folder = placed
        victim = next(path for path in folder.rglob("*") if path.name in ("data_batch_1", "train"))
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
        with pytest.raises(
            UserError, match=rf"{name}: not downloaded, or not what it should be .*place cifar.*by hand"
        ):
            prepare(name.lower(), folder)

    def test_what_lies_there_is_available(self, placed: tuple[str, Path]) -> None:
        name, folder = placed
        assert unavailable(name.lower(), folder) is None


class TestSvhn:
    """MATLAB files with X of shape (32, 32, 3, N) and y from 1 to 10, where 10 is the digit 0."""

    @pytest.fixture
    def placed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        import torchvision
        from scipy.io import savemat

        (tmp_path / "svhn").mkdir()
        splits = {}
        for split, (url, name, _) in torchvision.datasets.SVHN.split_list.items():
            labels = (np.arange(30) % 10 + 1).astype(np.uint8).reshape(-1, 1)
            savemat(tmp_path / "svhn" / name, {"X": noise(32, 32, 3, 30), "y": labels})
            splits[split] = [url, name, md5(tmp_path / "svhn" / name)]
        monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
        return tmp_path

    def test_images_and_labels(self, placed: Path) -> None:
        prepared = prepare("svhn", placed)
        assert not isinstance(prepared.train, ImageFiles)
        assert prepared.train.labels.tolist()[:11] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        assert np.array_equal(prepared.train.inputs[4], noise(32, 32, 3, 30)[..., 4])
        write_dataset(placed / "data", prepared)

    def test_a_changed_file_is_refused(self, placed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = placed / "svhn" / "train_32x32.mat"
        path.write_bytes(path.read_bytes()[:-10])

        def offline(*arguments: object, **options: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("torchvision.datasets.svhn.download_url", offline)
        with pytest.raises(
            UserError, match=r"SVHN: not downloaded.*no network.*place train_32x32.mat and test_32x32.mat"
        ):
            prepare("svhn", placed)


class TestCaltech:
    @pytest.fixture
    def placed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "caltech101" / "101_ObjectCategories"
        for name, count in (("BACKGROUND_Google", 3), ("Faces", 6), ("ant", 4), ("yin_yang", 5)):
            for number in range(1, count + 1):
                mode, size = ("L", (50, 20)) if number == 1 else ("RGB", (20 + number, 50))
                save(folder / name / f"image_{number:04d}.jpg", mode, size, seed=number)
        monkeypatch.setattr("lplgrad.datasets.caltech101.IMAGES", 15)
        return tmp_path

    def test_no_background_grey_becomes_colour_and_all_one_size(self, placed: Path) -> None:
        source = datasets.registry.load("caltech101")
        construct: Any = source.options.model_construct
        options = construct(image_size=16, fit="crop", test_images=5, split_seed=0)
        data = write_dataset(placed / "data", source.prepare(options, placed), threads=2)
        assert data.classes == ["Faces", "ant", "yin_yang"]
        assert data.splits["train"].inputs.shape == (10, 16, 16, 3)
        assert data.splits["test"].inputs.shape == (5, 16, 16, 3)
        assert sorted(np.bincount(data.splits["test"].labels).tolist()) == [1, 2, 2]
        assert source.pool_size(options) == 10


def test_a_split_keeps_the_proportions_and_follows_its_seed() -> None:
    labels = np.repeat(np.arange(5), [100, 50, 30, 10, 10])
    train, test = stratified_split(labels, list("abcde"), 60, split_seed=0)
    assert np.bincount(labels[test]).tolist() == [30, 15, 9, 3, 3]
    assert sorted([*train, *test]) == list(range(200))
    assert not np.array_equal(test, stratified_split(labels, list("abcde"), 60, split_seed=1)[1])


class TestAvailability:
    def test_without_network_it_says_what_to_place_where(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("urllib.request.getproxies", dict)
        monkeypatch.setattr("socket.create_connection", _no_network)
        for name, words in (
            ("cifar10", f"place cifar-10-python.tar.gz in {tmp_path}"),
            ("cifar100", f"place cifar-100-python.tar.gz in {tmp_path}"),
            ("svhn", f"place train_32x32.mat and test_32x32.mat in {tmp_path / 'svhn'}"),
            ("caltech101", f"place the folder 101_ObjectCategories in {tmp_path / 'caltech101'}"),
        ):
            told = unavailable(name, tmp_path)
            assert told is not None
            assert words in told

    @pytest.fixture
    def host(self) -> Iterator[str]:
        """A host that sends the file /there, but not to HEAD, and refuses all others."""

        class Host(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response({"/there": 200, "/moved": 302}.get(self.path) or int(self.path[1:]))
                self.send_header("Location", "/there")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
            threading.Thread(target=server.serve_forever).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    @pytest.mark.parametrize("code", [403, 404, 410, 429, 500, 503])
    def test_a_host_that_refuses_is_as_good_as_none(self, host: str, code: int) -> None:
        told = _torchvision.unreachable(f"{host}/{code}")
        assert told is not None
        assert f"{host}/{code} answers {code}" in told

    @pytest.mark.parametrize("path", ["there", "moved"])
    def test_a_host_that_sends_is_asked_as_the_download_asks(self, host: str, path: str) -> None:
        assert _torchvision.unreachable(f"{host}/{path}") is None

    def test_a_failed_download_leaves_the_data_set_out_until_its_file_is_deleted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(_torchvision, "urlopen", lambda *arguments, **options: contextlib.nullcontext())
        study = read_study([Path(__file__).parents[2] / "config.yaml"], {"run": {"datasets": ["cifar10"]}})
        arguments = ["prepare", "--settings", "{source: cifar10}", "--output", "data/cifar10"]

        def changed(*arguments: object, **options: object) -> None:
            raise RuntimeError("File not found or corrupted.")

        monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", changed)
        assert unavailable_datasets(study) == {}
        status, told = lplgrad(*arguments)
        assert status == 1
        assert "place cifar-10-python.tar.gz in data/downloads by hand, delete data/cifar10/failed_download.txt" in told
        reason = unavailable_datasets(study)["cifar10"]
        assert told.startswith(f"lplgrad prepare: error: {reason}; until then, studies that have no results of it")

        started = tmp_path / "results/paper/low/cifar10"
        started.mkdir(parents=True)
        assert unavailable_datasets(study) == {}, "what has results is never left out"
        started.rmdir()
        (tmp_path / "data/cifar10/dataset.json").write_text("{}")
        assert unavailable_datasets(study) == {}, "nor what is prepared"
        (tmp_path / "data/cifar10/dataset.json").unlink()
        (tmp_path / "data/cifar10/failed_download.txt").unlink()
        assert unavailable_datasets(study) == {}

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
    def test_a_disk_that_cannot_be_written_is_no_failed_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call, number: int
    ) -> None:
        def full(*arguments: object, **options: object) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", full)
        place = ["--downloads", tmp_path, "--output", tmp_path / "data"]
        assert lplgrad("prepare", "--settings", "{source: cifar10}", *place) == (
            1,
            f"lplgrad prepare: error: {tmp_path}: no\n",
        )
        assert not (tmp_path / "data").exists()

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert unavailable("image_folder", tmp_path, path=str(tmp_path)) is None
        told = unavailable("image_folder", tmp_path, path=str(tmp_path / "none"))
        assert told == f"{tmp_path / 'none'} does not exist; place the images there, a folder for each class"


def _no_network(*arguments: object, **options: object) -> None:
    raise OSError("network is unreachable")
