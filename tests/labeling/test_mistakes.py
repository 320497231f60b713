"""What a person may get wrong between two rounds: one line each, and no label is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lplgrad.datasets.prepared.shards import PoolFile, known_images
from lplgrad.labeling.waiting import message
from lplgrad.machine.errors import UserError
from tests.labeling.loop import Call, Loop, image, single
from tests.runs import HOME

pytestmark = pytest.mark.slow

HOME_CONFIG = HOME / "config.yaml"


class TestMistakes:
    """Each is one line that says what to do, and no label is lost."""

    def refused(self, loop: Loop, *parts: str) -> None:
        tables = {path: path.read_bytes() for path in Path("labels").rglob("*.csv")}
        with pytest.raises(UserError) as error:
            loop.waiting()
        for part in parts:
            assert part in str(error.value)
        status, said = loop.answers(2)
        assert status == 1
        single(said)
        assert not Path(loop.layout.labels(loop.trial, 2)).exists()
        assert {path: path.read_bytes() for path in tables} == tables

    def test_a_misspelt_class(self, loop: Loop) -> None:
        loop.fill_in(1, {Path(loop.rows()[2]["file"]).stem: "dgo"})
        self.refused(loop, "round1.csv: line 4: unknown class 'dgo' (did you mean 'dog'?)")

    def test_an_unknown_class(self, loop: Loop) -> None:
        loop.fill_in(1, {Path(loop.rows()[0]["file"]).stem: "zebra"})
        self.refused(loop, "line 2: unknown class 'zebra' (known: cat, dog, owl)", "make its folder in photos/labeled")

    def test_a_class_folder_that_is_not_listed(self, here: Path, lplgrad: Call) -> None:
        loop = Loop(lplgrad, classes=["cat", "dog", "owl", "emu"])
        loop.begin()
        loop.fill_in()
        assert PoolFile.read(Path(loop.layout.pool(loop.trial, 1))).classes == ["cat", "dog", "owl", "emu"]
        image(Path("photos/labeled/emus/one.png"), 3, 700)
        self.refused(loop, "photos/labeled/emus: is not among the classes of the data set (did you mean 'emu'?)")

    def test_two_answers_to_one_image(self, loop: Loop) -> None:
        loop.fill_in()
        name = loop.rows()[0]["file"]
        other = "dog" if Path(name).stem[:3] == "cat" else "cat"
        shutil.copy(Path("photos", name), f"photos/labeled/{other}/x.png")
        self.refused(
            loop, "labels/photos/round1.csv: line 2", repr(name), f"but {other!r} in photos/labeled/{other}/x.png"
        )

    def test_a_name_that_is_no_image(self, loop: Loop) -> None:
        loop.fill_in()
        name = loop.rows()[0]["file"]
        loop.table().write_text(
            loop.table().read_text().replace("unlabeled/trip", "elsewhere", 1)
        )  # the hash is enough
        here = loop.waiting()
        assert here is not None
        assert here.ready
        Path("labels/photos/mine.csv").write_text(f"file,label\n{name.replace('unlabeled', 'unlabelled')},cat\n")
        self.refused(
            loop, "mine.csv: line 2: 'unlabelled/trip/", "is no image of the pool (did you mean 'unlabeled/trip/"
        )

    def test_a_waiting_image_that_is_gone(self, loop: Loop) -> None:
        name = loop.rows()[3]["file"]
        Path("photos", name).unlink()
        self.refused(
            loop, f"photos/{name}: waits for a label, but is gone or has changed; put it back, or write ? as its label"
        )
        loop.fill_in(1, {Path(name).stem: "?"})
        loop.go_on(2)
        assert loop.labels(2)[Path(name).stem] == "?"

    def test_a_waiting_image_that_was_replaced(self, loop: Loop) -> None:
        """The person would see another image than the one that gets the label."""
        name = loop.rows()[0]["file"]
        image(Path("photos", name), 1, 997)
        self.refused(loop, f"photos/{name}: waits for a label, but is gone or has changed")

    def test_two_images_that_had_the_same_name(self, loop: Loop) -> None:
        name = loop.rows()[0]["file"]
        loop.fill_in()
        Path("photos", name).unlink()
        image(Path("photos", name), 2, 997)
        loop.go_on(2)
        loop.fill_in(2)
        loop.go_on(3)
        known = known_images(Path("data/photos"))
        first, second = [index for index, other in enumerate(known.names) if other == name]
        labeled = Path(loop.layout.labels(loop.trial, 3)).read_text()
        assert f"\n{first},2," in labeled
        assert f"\n{second}," not in labeled
        Path("labels/photos/mine.csv").write_text(f"file,label\n{name},owl\n")
        with pytest.raises(UserError, match=r"mine.csv: line 2: .* is the name of two images, one after the other"):
            loop.waiting()

    def test_a_data_set_that_is_gone(self, loop: Loop) -> None:
        shutil.rmtree("data/photos")
        with pytest.raises(UserError, match=r"data/photos: is missing, .* delete results/photos"):
            loop.waiting()

    def test_labels_that_nobody_knows_are_not_looked_up(self, loop: Loop) -> None:
        status, said = loop.call(
            "start", "--data", "data/photos", "--query-size", 4, "--seed", 1, "--output", "labeled.csv"
        )
        assert status == 1
        single(said, "data/photos: a person labels this data set")

    def test_half_a_batch(self, loop: Loop) -> None:
        asked = [Path(row["file"]).stem for row in loop.rows()]
        loop.fill_in(1, dict.fromkeys(asked[1:], ""))
        here = loop.waiting()
        assert here is not None
        assert not here.ready
        lines = message(here, loop.study, loop.layout, ["photos.yaml"])
        assert lines[0] == "3 of 4 images wait for a label: labels/photos/round1.csv"
        assert "To go on without the others:  lplgrad label photos.yaml --finish" in lines
        status, said = loop.answers(2)
        assert status == 1
        single(said, "3 of 4 images have no answer")
        status, _ = loop.call("label", HOME_CONFIG, "photos.yaml", "--finish")
        assert status == 0
        loop.go_on(2)
        assert loop.labels(2).keys() - loop.labels(1).keys() == {asked[0]}

    def test_a_line_whose_cells_are_mixed_up(self, loop: Loop) -> None:
        """As after a spreadsheet sorted some columns only."""
        loop.fill_in()
        rows = loop.table().read_text().splitlines()
        cells = [row.split(",") for row in rows[1:]]
        cells[0][-1], cells[1][-1] = cells[1][-1], cells[0][-1]
        loop.table().write_text("\n".join([rows[0], *(",".join(row) for row in cells)]) + "\n")
        self.refused(
            loop, "round1.csv: line 2", "has another sha256 than in files.csv; put the cells of the line in order"
        )

    def test_a_pipe(self, loop: Loop) -> None:
        os.mkfifo("photos/labeled/cat/pipe.png")
        self.refused(loop, "photos/labeled/cat/pipe.png: not a regular file; remove it")

    def test_files_that_a_spreadsheet_keeps_are_no_tables(self, loop: Loop) -> None:
        Path("labels/photos/.~lock.round1.csv").write_text("somebody")
        Path("labels/photos/~$round1.csv").write_text("somebody")
        Path("labels/photos/folder.csv").mkdir()
        loop.fill_in()
        table = loop.table()
        table.write_text("sep=,\n" + table.read_text().replace("file,label", "File,Label", 1))
        loop.go_on(2)

    def test_a_label_that_is_taken_back(self, loop: Loop) -> None:
        loop.fill_in()
        loop.go_on(2)
        name = loop.rows()[0]["file"]
        loop.fill_in(2)
        loop.fill_in(1, {Path(name).stem: "-"})
        with pytest.raises(
            UserError, match=rf"'{name}' has been trained on, and - does not withdraw its label; write \?"
        ):
            loop.waiting()
        loop.fill_in(1, {Path(name).stem: "?"})
        loop.go_on(3)
        assert loop.labels(3)[Path(name).stem] == "?"

    def test_a_broken_link(self, loop: Loop) -> None:
        Path("photos/labeled/cat/link.png").symlink_to("nowhere.png")
        with pytest.raises(UserError, match=r"photos/labeled/cat/link.png: No such file or directory"):
            loop.waiting()

    def test_a_class_that_tables_cannot_name(self, loop: Loop) -> None:
        image(Path("photos/labeled/ emu/one.png"), 1, 994)
        self.refused(loop, "photos/labeled: ' emu' cannot be a class, because tables lose its blanks")

    def test_a_batch_without_a_single_label(self, loop: Loop) -> None:
        loop.fill_in(1, {Path(row["file"]).stem: "-" for row in loop.rows()})
        here = loop.waiting()
        assert here is not None
        assert not here.ready
        assert (
            "Label some of them:  lplgrad label photos.yaml"
            in message(here, loop.study, loop.layout, ["photos.yaml"])[1]
        )
        status, said = loop.answers(2)
        assert status == 1
        single(said, "labels/photos: no new label")

    def test_a_data_set_that_was_prepared_again(self, loop: Loop) -> None:
        loop.fill_in()
        shutil.rmtree("data/photos")
        Path("photos/unlabeled/trip/cat50.png").unlink()
        assert loop.prepare()[0] == 0
        status, said = loop.answers(2)
        assert status == 1
        single(said, "data/photos: was prepared again", "delete the results of this study")

    def test_files_of_a_spreadsheet(self, loop: Loop) -> None:
        loop.fill_in()
        text = loop.table().read_text().replace(",", ";").replace("\n", "\r\n")
        loop.table().write_bytes(b"\xef\xbb\xbf" + text.encode())
        here = loop.waiting()
        assert here is not None
        assert here.ready
        loop.go_on(2)
