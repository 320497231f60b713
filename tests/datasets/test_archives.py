"""Archives of strangers: unpacked below the target, or refused in one line with nothing left behind."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lplgrad.datasets._archives import unpack
from lplgrad.machine.errors import UserError

Content = dict[str, bytes | str]  # of files; of links what they point to


def pack(path: Path, content: Content) -> Path:
    """An archive of files and symbolic links, of the kind that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if "lzma" in path.name else zipfile.ZIP_DEFLATED) as packed:
            for name, what in content.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = packed.compression
                if isinstance(what, str):
                    info.external_attr = (stat.S_IFLNK | 0o777) << 16
                packed.writestr(info, what)
        return path
    compression = path.suffix[1:] if path.suffix != ".tar" else ""
    with tarfile.open(path, f"w:{compression}") as packed:  # type: ignore[call-overload]
        for name, what in content.items():
            member = tarfile.TarInfo(name)
            if isinstance(what, str):
                member.type, member.linkname = tarfile.SYMTYPE, what
                packed.addfile(member)
            else:
                member.size = len(what)
                packed.addfile(member, io.BytesIO(what))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["a.zip", "a.lzma.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_files_come_out_as_they_went_in(tmp_path: Path, target: Path, name: str) -> None:
    content: Content = {"cat/1.png": b"one", "cat/deep/2.png": bytes(100_000), "dog/1.png": b""}
    unpack(pack(tmp_path / name, content), target)
    assert {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*.png")} == content


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"../out.png": b"x"}, "outside"),
        ({"/tmp/out.png": b"x"}, "outside"),
        ({"cat/../../out.png": b"x"}, "outside"),
        ({"cat/1.png": "/etc/passwd"}, "'cat/1.png' is a link or device; only files and folders"),
        ({"cat": "..", "cat/out.png": b"x"}, "'cat' is a link or device"),
        ({"c" * 2000: b"x"}, "a name of 2,000 characters"),
    ],
)
def test_what_would_leave_the_folder_is_refused(
    tmp_path: Path, target: Path, ending: str, content: Content, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        unpack(pack(tmp_path / f"evil{ending}", content), target)
    assert not list(tmp_path.rglob("out.png"))


def link_tar(path: Path, *members: tuple[str, bytes | str | None]) -> Path:
    """An archive of files (bytes), folders (None) and hard links (the name that they repeat), in this order."""
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as packed:  # type: ignore[call-overload]
        for name, what in members:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
            elif what is None:
                member.type = tarfile.DIRTYPE
            else:
                member.type, member.linkname = tarfile.LNKTYPE, what
            packed.addfile(member, io.BytesIO(what) if isinstance(what, bytes) else None)
    return path


@pytest.mark.parametrize("ending", [".tar", ".gz"])
def test_a_hard_link_is_a_copy_of_the_earlier_file(tmp_path: Path, target: Path, ending: str) -> None:
    archive = link_tar(
        tmp_path / f"a{ending}",
        ("./cat/1.png", b"one"), ("cat/1.png", "cat/1.png"), ("cat/2.png", "cat/1.png"), ("dog/3.png", "./cat/2.png"),
    )  # fmt: skip
    unpack(archive, target)
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*.png")}
    assert found == dict.fromkeys(["cat/1.png", "cat/2.png", "dog/3.png"], b"one")
    assert {path.stat().st_nlink for path in target.rglob("*.png")} == {1}


def test_hard_links_of_a_packed_folder_are_unpacked(tmp_path: Path, target: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").write_bytes(b"one")
    (tmp_path / "cat/2.png").hardlink_to(tmp_path / "cat/1.png")
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.add(tmp_path / "cat", "cat")
        assert [member.islnk() for member in packed.getmembers()] == [False, False, True]
    unpack(tmp_path / "a.tar", target)
    assert (target / "cat/2.png").read_bytes() == b"one"


@pytest.mark.parametrize("linked", ["/etc/passwd", "../secret", "cat/../../secret", "cat/2.png", "cat", "later.png"])
def test_a_hard_link_to_anything_but_an_earlier_file_is_refused(tmp_path: Path, target: Path, linked: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    archive = link_tar(tmp_path / "a.tar", ("cat", None), ("cat/2.png", linked), ("later.png", b"x"))
    with pytest.raises(UserError, match=r"'cat/2.png' is a hard link to '.*', which is no file before it"):
        unpack(archive, target)
    assert not (target / "cat/2.png").exists()


def test_the_copies_of_hard_links_count_before_they_fill_the_disk(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = link_tar(tmp_path / "a.tar", ("0.png", bytes(1000)), *((f"{n}.png", "0.png") for n in range(1, 9)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=6_500))
    with pytest.raises(UserError, match="unpacks to 7,000 bytes or more, and 6,500 are free"):
        unpack(archive, target)


def test_backslashes_in_the_names_of_a_zip_are_separators(tmp_path: Path, target: Path) -> None:
    content: Content = {"cat\\": b"", "cat\\1.png": b"one", "cat\\deep\\2.png": b"two", "dog/3.png": b"three"}
    unpack(pack(tmp_path / "a.zip", content), target)
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*.png")}
    assert found == {"cat/1.png": b"one", "cat/deep/2.png": b"two", "dog/3.png": b"three"}


@pytest.mark.parametrize(
    "name", ["..\\..\\out.png", "\\tmp\\out.png", "cat\\..\\..\\out.png", "C:\\out.png", "c:/out.png"]
)
def test_backslashes_do_not_lead_out_of_the_folder(tmp_path: Path, target: Path, name: str) -> None:
    with pytest.raises(UserError, match="outside"):
        unpack(pack(tmp_path / "evil.zip", {name: b"x"}), target)
    assert not list(tmp_path.rglob("*out.png"))


def test_a_backslash_in_a_tar_is_part_of_a_name(tmp_path: Path, target: Path) -> None:
    unpack(pack(tmp_path / "a.tar", {"cat\\1.png": b"x"}), target)
    assert [path.name for path in target.iterdir()] == ["cat\\1.png"]


def test_links_too_long_to_be_resolved_lead_nowhere(tmp_path: Path, target: Path) -> None:
    """CVE-2025-4517: Python's own filter takes a path that it cannot resolve, being too long, for one within."""
    with tarfile.open(tmp_path / "evil.tar", "w") as packed:
        path, steps = "", "abcdefghijklmnop"
        for step in steps:
            for name, kind in (("d" * 247, tarfile.DIRTYPE), (step, tarfile.SYMTYPE)):
                member = tarfile.TarInfo(f"{path}{name}")
                member.type, member.linkname, member.mode = kind, "d" * 247, 0o755
                packed.addfile(member)
            path += f"{'d' * 247}/"
        long = f"{'/'.join(steps)}/{'l' * 254}"
        for name, linked in ((long, "../" * len(steps)), ("escape", f"{long}/../../../{tmp_path.name}")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, linked
            packed.addfile(member)
        member = tarfile.TarInfo("escape/out.png")
        packed.addfile(member, io.BytesIO(b""))
    with pytest.raises(UserError, match="link or device"):
        unpack(tmp_path / "evil.tar", target)
    assert not list(tmp_path.rglob("out.png"))


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_what_would_fill_the_disk_is_refused_before_it_does(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Ten million zeros in some ten thousand bytes, and a disk of six million."""
    archive = pack(tmp_path / f"bomb{ending}", {"cat/1.png": bytes(5_000_000), "dog/1.png": bytes(5_000_000)})
    assert archive.stat().st_size < 20_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=6_000_000))
    with pytest.raises(UserError, match=rf"bomb{ending}: unpacks to 10,000,000 bytes .* 6,000,000 are free in"):
        unpack(archive, target)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x1f\x8b cut", b"BZh cut", b"\xfd7zXZ\x00 cut"])
def test_a_broken_archive_is_refused(tmp_path: Path, target: Path, content: bytes) -> None:
    (tmp_path / "broken.zip").write_bytes(content)
    with pytest.raises(UserError, match="not a whole archive"):
        unpack(tmp_path / "broken.zip", target)


@pytest.mark.parametrize("name", ["a.zip", "a.lzma.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_damaged_archive_is_one_line_or_unpacked(tmp_path: Path, name: str) -> None:
    draw = random.Random(0)
    whole = pack(tmp_path / name, {f"cat/{n}.png": draw.randbytes(300) for n in range(9)}).read_bytes()
    told: list[str] = []
    for attempt in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        folder = tmp_path / f"try{attempt}"
        folder.mkdir()
        try:
            unpack(tmp_path / name, folder)
        except UserError as error:
            told.append(str(error))
        except OSError as error:  # such as a name with a slash less, which is another file's folder
            told.append(error.filename)
    assert told
    assert all(told)
    assert not any("\n" in line for line in told)


@pytest.mark.parametrize(
    ("name", "flag", "read", "guessed"),
    [
        ("café".encode(), True, "café", False),
        ("café".encode(), False, "café", False),  # as macOS writes it
        ("café".encode("cp437"), False, "café", True),
        ("café".encode("latin-1"), False, "cafΘ", True),
    ],
)
def test_names_of_a_zip_are_read_in_the_encoding_that_it_says(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], name: bytes, flag: bool, read: str, guessed: bool
) -> None:
    unpack(zip_of_name(tmp_path / "a.zip", name, flag), target)
    assert [path.name for path in target.rglob("*")] == [read]
    assert ("does not say how 1 name(s) are encoded" in capsys.readouterr().err) == guessed


def zip_of_name(path: Path, name: bytes, flag: bool) -> Path:
    """An archive of one file of a name in some encoding, which it says to be UTF-8 or does not."""
    content = bytearray(pack(path, {"X" * len(name): b"x"}).read_bytes().replace(b"X" * len(name), name))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags + 1] |= 8 * flag
    path.write_bytes(content)
    return path


def test_a_name_that_is_not_the_utf8_that_it_is_said_to_be_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(UserError, match=r"a\.zip: not a whole archive \('utf-8' codec can't decode"):
        unpack(zip_of_name(tmp_path / "a.zip", b"caf\xe9", True), target)


def test_bytes_of_a_name_in_a_tar_stay_as_they_are(tmp_path: Path, target: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as packed:
        packed.addfile(tarfile.TarInfo("café"))
    unpack(tmp_path / "a.tar", target)
    assert os.listdir(os.fsencode(target)) == [b"caf\xe9"]  # noqa: PTH208


def test_a_name_with_a_null_byte_is_refused(tmp_path: Path, target: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as packed:
        member = tarfile.TarInfo("cat/1.png")
        member.pax_headers = {"path": "ca\0t/1.png"}
        packed.addfile(member)
    with pytest.raises(UserError, match=r"contains 'ca\\x00t/1.png', which cannot be the name of a file"):
        unpack(tmp_path / "a.tar", target)


def test_an_encrypted_archive_says_so(tmp_path: Path, target: Path) -> None:
    whole = bytearray(pack(tmp_path / "a.zip", {"cat/1.png": b"x"}).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(UserError, match="encrypted"):
        unpack(tmp_path / "a.zip", target)
