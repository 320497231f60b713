"""The labels of a person, from the folder and the tables to the labelled sets of the rounds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.datasets.prepared.images import decode
from lplgrad.datasets.prepared.shards import PoolFile, known_images, open_pool
from lplgrad.labeling.waiting import message
from tests.labeling.loop import Call, Loop, image, photos, single

pytestmark = pytest.mark.slow


class TestAnswers:
    def test_a_round_has_the_answers_of_the_one_before(self, loop: Loop) -> None:
        asked = [Path(row["file"]).stem for row in loop.rows()]
        unknown, later = asked[1:3]
        loop.fill_in(1, {unknown: "?", later: "-"})
        log = loop.go_on(2)
        assert "round 2: 18 labels bought, 17 trained on (1 cannot be told)" in log
        found = loop.labels(2)
        expected = {asked[0]: asked[0][:3], unknown: "?", asked[3]: asked[3][:3]}
        assert found == {**loop.labels(1), **expected}
        pool = PoolFile.read(Path(loop.layout.pool(loop.trial, 2)))
        assert pool.bought == [15, 3]
        # Whatever has an answer is not asked again; what was left out may be.
        again = {Path(row["file"]).stem for row in loop.rows(2)}
        assert not again & found.keys()

    def test_images_may_be_moved_or_copied_into_class_folders(self, loop: Loop) -> None:
        first, second, *others = loop.rows()
        Path("photos", first["file"]).rename(Path("photos/labeled/owl/moved.png"))
        shutil.copy(Path("photos", second["file"]), "photos/labeled/dog")
        Path("photos", others[0]["file"]).rename("photos/unlabeled/other name.png")
        left = [Path(row["file"]).stem for row in others]
        rows = loop.rows()
        here = loop.waiting()
        assert here is not None
        assert [Path(image.file).stem for image in here.missing] == left
        loop.fill_in(1, {Path(row["file"]).stem: "" for row in rows[:2]})
        loop.go_on(2)
        found = loop.labels(2)
        assert found[Path(first["file"]).stem] == "owl"
        assert found[Path(second["file"]).stem] == "dog"
        assert all(found[name] == name[:3] for name in left)
        assert PoolFile.read(Path(loop.layout.pool(loop.trial, 2))).removed == []

    def test_labels_that_nobody_asked_for_count_too(self, loop: Loop) -> None:
        asked = {row["file"] for row in loop.rows()}
        more = next(
            path
            for path in sorted(Path("photos/unlabeled/trip").iterdir())
            if f"unlabeled/trip/{path.name}" not in asked
        )
        more.rename(Path("photos/labeled", more.stem[:3], more.name))
        image(Path("photos/labeled/cat/bought.png"), 0, 998)
        loop.fill_in()
        log = loop.go_on(2)
        assert "round 2: 21 labels bought" in log
        assert "1 new image(s) joined the pool" in log
        assert loop.labels(2)["bought"] == "cat"

    def test_a_later_correction_counts_from_the_next_round_on(self, loop: Loop) -> None:
        wrong = Path(loop.rows()[0]["file"]).stem
        loop.fill_in(1, {wrong: "owl" if wrong[:3] == "cat" else "cat"})
        loop.go_on(2)
        before = Path(loop.layout.labels(loop.trial, 2)).read_bytes()
        loop.fill_in(1, {wrong: wrong[:3]})
        loop.fill_in(2)
        assert "1 earlier label(s) were corrected" in loop.go_on(3)
        assert loop.labels(3)[wrong] == wrong[:3]
        assert Path(loop.layout.labels(loop.trial, 2)).read_bytes() == before

    def test_a_label_is_never_lost_with_its_image(self, loop: Loop) -> None:
        loop.fill_in()
        shutil.rmtree("photos/labeled/owl")
        Path("photos/labeled/owl").mkdir()
        log = loop.go_on(2)
        assert "warning: 5 earlier label(s) are in no table and no class folder any more, and stay" in log
        assert loop.labels(1).items() <= loop.labels(2).items()

    def test_new_images_are_further_shards(self, loop: Loop) -> None:
        first = open_dataset(Path("data/photos"))
        bytes_before = {path: path.read_bytes() for path in Path("data/photos").glob("train*")}
        loop.fill_in()
        added = [image(Path(f"photos/unlabeled/new/{k}.png"), 1, 500 + k) for k in range(3)]
        assert "3 new image(s) joined the pool" in loop.go_on(2)
        assert {path: path.read_bytes() for path in bytes_before} == bytes_before
        data, pool = open_pool(first, Path(loop.layout.pool(loop.trial, 2)))
        inputs = data.splits["train"].inputs
        assert (len(inputs), pool.examples, len(pool.shards)) == (48, 48, 1)
        assert np.array_equal(inputs[[0, 47, 44, 45]][[0, 2]], first.splits["train"].inputs[[0, 44]])
        assert np.array_equal(inputs[46], decode(added[1], 8, "crop"))
        assert np.array_equal(inputs[44:], np.stack([inputs[k] for k in range(44, 48)]))
        assert open_pool(first, Path(loop.layout.pool(loop.trial, 1)))[0].splits["train"].inputs.shape[0] == 45
        loop.fill_in(2)
        loop.go_on(3)
        assert len(PoolFile.read(Path(loop.layout.pool(loop.trial, 3))).shards) == 1

    def test_unreadable_images_stop_the_study_unless_they_may_be_left_out(self, here: Path, lplgrad: Call) -> None:
        Path("photos/unlabeled/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        status, said = Loop(lplgrad).prepare()
        assert status == 1
        single(said, "1 of 49 images cannot be read, the first is photos/unlabeled/broken.png")
        loop = Loop(lplgrad, skip_unreadable=True)
        loop.begin()
        known = known_images(Path("data/photos"))
        assert len(known.names) == 45
        assert "unlabeled/broken.png" not in known.names
        loop.fill_in()
        Path("photos/labeled/cat/late.png").write_bytes(b"\x89PNG\r\n\x1a\nlate")
        assert "new image" not in loop.go_on(2)
        image(Path("photos/unlabeled/good.png"), 1, 996)
        loop.fill_in(2)
        assert "1 new image(s) joined the pool" in loop.go_on(3)  # those that are broken are not tried again
        assert known_images(Path("data/photos")).names[45:] == ["unlabeled/good.png"]

    def test_the_study_goes_on_when_images_come_after_the_last_was_labelled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        monkeypatch.chdir(tmp_path)
        photos(tmp_path / "photos", unlabeled=1)
        loop = Loop(lplgrad)
        loop.begin()
        loop.fill_in()
        loop.go_on(2)
        here = loop.waiting()
        assert here is not None
        assert (len(here.batch), here.ready) == (0, False)
        assert message(here, loop.study, loop.layout, ["photos.yaml"])[0].startswith("Done: all images have a label.")
        image(Path("photos/unlabeled/late.png"), 1, 995)
        here = loop.waiting()
        assert here is not None
        assert here.ready
        loop.go_on(3)
        assert [row["file"] for row in loop.rows(3)] == ["unlabeled/late.png"]

    def test_nothing_trains_on_a_test_image_with_other_bytes(self, loop: Loop) -> None:
        """As after a photo tool has written tags into the file."""
        known = known_images(Path("data/photos"))
        held_out = next(
            path
            for path in sorted(Path("photos/labeled/cat").iterdir())
            if f"labeled/cat/{path.name}" not in known.names
        )
        tags = PngInfo()
        tags.add_text("comment", "holidays")
        Image.open(held_out).save(held_out, pnginfo=tags)
        loop.fill_in()
        log = loop.go_on(2)
        assert f"warning: data/photos: 1 new image(s) look like a test image, as {held_out}; they are left out" in log
        assert held_out.stem not in loop.labels(2)
        loop.fill_in(2)
        assert "look like a test image" not in loop.go_on(3)

    def test_a_test_image_that_gets_another_class(self, loop: Loop) -> None:
        known = known_images(Path("data/photos"))
        held_out = next(
            path
            for path in sorted(Path("photos/labeled/cat").iterdir())
            if f"labeled/cat/{path.name}" not in known.names
        )
        held_out.rename("photos/labeled/dog/corrected.png")
        loop.fill_in()
        log = loop.go_on(2)
        assert (
            "warning: photos: 1 test image(s) have another class now, as photos/labeled/dog/corrected.png ('cat' before"
            in log
        )
        assert "corrected" not in loop.labels(2)

    def test_starting_over_keeps_all_labels(self, loop: Loop) -> None:
        moved = loop.rows()[0]
        loop.fill_in()
        Path("photos", moved["file"]).rename(Path("photos/labeled", Path(moved["file"]).stem[:3], "moved.png"))
        loop.go_on(2)
        image(Path("photos/unlabeled/late.png"), 1, 993)
        loop.fill_in(2)
        loop.go_on(3)
        labels = loop.labels(3)
        shutil.rmtree("results")
        for _ in range(2):  # the second time, shards of the first are there
            status, said = loop.prepare()
            assert status == 0, said
            status, said = loop.answers(1)
            assert status == 0, said
        found = loop.labels(1)
        assert all(label == labels.get(name, label) for name, label in found.items() if name != "moved")
        assert len(found) + len(open_dataset(Path("data/photos")).splits["test"].labels) == len(labels) + 3

    def test_what_was_put_off_is_asked_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        """An old answer "not now" is no answer to a new question."""
        monkeypatch.chdir(tmp_path)
        photos(tmp_path / "photos", unlabeled=2)
        loop = Loop(lplgrad)
        loop.begin()
        asked = [Path(row["file"]).stem for row in loop.rows()]
        loop.fill_in(1, dict.fromkeys(asked[1:], "-"))
        loop.go_on(2)
        again = {Path(row["file"]).stem for row in loop.rows(2)}
        assert again & set(asked[1:])
        here = loop.waiting()
        assert here is not None
        assert (len(here.missing), here.ready) == (4, False)
        loop.fill_in(2)
        loop.go_on(3)
        assert all(loop.labels(3)[name] == name[:3] for name in again)

    def test_more_images_than_before_in_a_batch(self, loop: Loop) -> None:
        """As after a higher query_size: the table gains rows, and its answers stay."""
        here = loop.waiting()
        assert here is not None
        first = loop.table().read_text()
        lines = first.splitlines(keepends=True)
        loop.table().write_text("".join([*lines[:2], lines[2].replace(",,", ",cat,", 1)]))
        here.batch.write()
        assert sorted(row["file"] for row in loop.rows()) == sorted(image.file for image in here.batch.images)
        assert [row["label"] for row in loop.rows()] == ["", "cat", "", ""]

    def test_columns_that_a_person_adds_stay(self, loop: Loop) -> None:
        rows = loop.table().read_text().splitlines()
        loop.table().write_text("\n".join([f"{rows[0]},note", f"{rows[1]},blurred", *(f"{row}," for row in rows[2:])]))
        here = loop.waiting()
        assert here is not None
        before = loop.table().read_bytes()
        here.batch.store({})
        assert loop.table().read_bytes() == before
        here.batch.store({1: "cat"})
        assert [row["note"] for row in loop.rows()] == ["blurred", "", "", ""]
        assert [row["label"] for row in loop.rows()] == ["", "cat", "", ""]

    def test_removed_images_are_not_asked_about(self, loop: Loop) -> None:
        asked = {row["file"] for row in loop.rows()}
        gone = [f"unlabeled/trip/{path.name}" for path in sorted(Path("photos/unlabeled/trip").iterdir())]
        kept = [name for name in gone if name not in asked][:2]
        loop.fill_in()
        for name in gone:
            if name not in asked and name not in kept:
                Path("photos", name).unlink()
        assert "warning: 24 unlabelled image(s) are gone, and are not asked about" in loop.go_on(2)
        assert sorted(row["file"] for row in loop.rows(2)) == kept

    def test_a_new_class(self, loop: Loop) -> None:
        image(Path("photos/labeled/bat/one.png"), 3, 700)
        image(Path("photos/labeled/bat/two.png"), 3, 701)
        loop.fill_in()
        log = loop.go_on(2)
        assert "warning: new class(es): bat; the model of round 2 starts with new weights" in log
        pool = PoolFile.read(Path(loop.layout.pool(loop.trial, 2)))
        assert pool.classes == ["cat", "dog", "owl", "bat"]  # those known keep their numbers
        assert loop.labels(2)["two"] == "bat"

    def test_the_budget_ends_with_fewer(self, here: Path, lplgrad: Call) -> None:
        loop = Loop(lplgrad, labels=21)
        loop.begin()
        loop.fill_in()
        loop.go_on(2)
        assert len(loop.rows(2)) == 2
        loop.fill_in(2)
        loop.go_on(3)
        assert not loop.table(3).exists()
        found = loop.waiting()
        assert found is not None
        assert not found.ready
        assert message(found, loop.study, loop.layout, ["photos.yaml"])[0].startswith(
            "Done: the budget of 21 labels is spent."
        )

    def test_a_table_with_answers_is_never_overwritten(self, loop: Loop) -> None:
        loop.fill_in()
        before = loop.table().read_bytes()
        batch = Path(loop.layout.batch(loop.trial, 1))
        loop.query(1)
        assert loop.table().read_bytes() == before
        pool = Path(loop.layout.pool(loop.trial, 1))
        values = json.loads(pool.read_text())
        asked = [int(line.split(",")[0]) for line in batch.read_text().splitlines()[1:]]
        pool.write_text(json.dumps({**values, "removed": asked[:2]}))  # so that the query asks about other images
        loop.query(1)
        assert loop.table().read_bytes() == before
        assert Path("labels/photos/round1_2.csv").exists()

    def test_the_same_answers_give_the_same_bytes(self, here: Path, lplgrad: Call) -> None:
        written = []
        for _ in range(2):
            loop = Loop(lplgrad)
            loop.begin()
            loop.fill_in()
            loop.go_on(2)
            files = [path for path in sorted(Path("results").rglob("*")) if path.suffix in (".csv", ".json")]
            written.append({path: path.read_bytes() for path in files if "timing" not in path.name})
            for folder in ("results", "data", "labels"):
                shutil.rmtree(folder)
        assert written[0] == written[1]
        assert len(written[0]) > 6
