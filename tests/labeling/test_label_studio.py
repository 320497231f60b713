"""Label Studio: the tasks that it imports, and the answers in what it exports.

The exports have the form that Label Studio 1.23 writes, reduced to the keys that matter and some that must not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lplgrad.labeling.batch import Asked, Batch
from lplgrad.labeling.label_studio import read_export, write_tasks
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import escaped, unescaped

CLASSES = ["cat", "dog", 'a & "b" <c>', "it's"]


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    images = [
        Asked(7, "cat/1.png", "0" * 64, "dog", 0.75, "1.5"),
        Asked(3, "dog/50% & more?.png", "1" * 64, "cat", 0.5),
        Asked(9, "dog/3.png", "2" * 64),
    ]
    batch = Batch(tmp_path / "labels" / "round2.csv", images, CLASSES)
    batch.write()
    return batch


def choice(*chosen: str, name: str = "label") -> list[dict[str, Any]]:
    """The result of an annotation."""
    about = {"id": "x1", "from_name": name, "to_name": "image", "type": "choices", "origin": "manual"}
    return [{**about, "value": {"choices": list(chosen)}}] if chosen else []


def annotation(*chosen: str, skipped: bool = False, **more: Any) -> dict[str, Any]:
    prediction = {"id": 5, "model_version": "m", "result": choice("dog")}
    about = {"id": 1, "completed_by": 1, "ground_truth": False, "lead_time": 1.0, "prediction": prediction}
    return {**about, "result": choice(*chosen), "was_cancelled": skipped, **more}


def task(file: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = {"image": f"/data/local-files/?d=pets/{file}", "file": file}
    about = {"id": 11, "file_upload": "0a1b2c3d-tasks.json", "predictions": [7], "drafts": [], "meta": {}, "project": 1}
    return {**about, "data": data, "annotations": list(annotations), **more}


def record(file: str, **more: Any) -> dict[str, Any]:
    """A record of JSON-MIN."""
    about = {"image": f"/data/local-files/?d=pets/{file}", "file": file, "id": 1, "annotator": 1, "lead_time": 1.0}
    return {**about, "annotation_id": 1, **more}


def read(folder: Path, export: Any, files: Sequence[str] = ()) -> list[tuple[int, str, str]]:
    path = folder / "export.json"
    path.write_text(json.dumps(export))
    return [(number, row["file"], row["label"]) for number, row in read_export(path, files)]


class TestTasks:
    def test_each_image_is_a_task_and_its_suggestion_a_prediction(self, batch: Batch, tmp_path: Path) -> None:
        write_tasks(batch, tmp_path / "tasks.json", prefix="/data/local-files/?d=pets/", model="round 1")
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        assert [task["data"] for task in tasks] == [
            {"image": "/data/local-files/?d=pets/cat/1.png", "file": "cat/1.png"},
            {"image": "/data/local-files/?d=pets/dog/50%25%20%26%20more%3F.png", "file": "dog/50% & more?.png"},
            {"image": "/data/local-files/?d=pets/dog/3.png", "file": "dog/3.png"},
        ]
        region = {"id": "suggestion", "from_name": "label", "to_name": "image", "type": "choices"}
        result = [{**region, "value": {"choices": ["dog"]}}]
        assert tasks[0]["predictions"] == [{"model_version": "round 1", "score": 0.75, "result": result}]
        assert "predictions" not in tasks[2]

    def test_the_configuration_has_the_names_that_predictions_use(self, batch: Batch, tmp_path: Path) -> None:
        path = write_tasks(batch, tmp_path / "tasks.json")
        view = ElementTree.parse(path).getroot()
        image, choices = view
        assert (view.tag, image.tag, choices.tag) == ("View", "Image", "Choices")
        assert image.attrib == {"name": "image", "value": "$image"}
        about = {"name": "label", "toName": "image", "choice": "single", "required": "true", "showInline": "true"}
        assert choices.attrib == about
        assert [one.get("value") for one in choices] == CLASSES
        assert [one.get("hotkey") for one in choices] == ["1", "2", "3", "4"]

    def test_hotkeys_are_given_once_each(self, batch: Batch, tmp_path: Path) -> None:
        batch.classes = [f"kind {k}" for k in range(12)]
        choices = ElementTree.parse(write_tasks(batch, tmp_path / "tasks.json")).getroot()[1]
        assert [one.get("hotkey") for one in choices] == [*"1234567890", None, None]

    def test_classes_that_label_studio_would_change_are_refused(self, batch: Batch, tmp_path: Path) -> None:
        batch.classes = [*CLASSES, "US$ note"]
        assert write_tasks(batch, tmp_path / "tasks.json").exists()
        batch.classes = [*CLASSES, "a $5 note"]
        with pytest.raises(UserError, match=r"class 'a \$5 note': Label Studio replaces"):
            write_tasks(batch, tmp_path / "none.json")
        assert not (tmp_path / "none.xml").exists()

    def test_images_with_an_answer_are_left_out_and_those_put_off_are_not(
        self, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        batch.store({0: "dog", 1: "-"})
        write_tasks(batch, tmp_path / "tasks.json")
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        assert [task["data"]["file"] for task in tasks] == ["dog/50% & more?.png", "dog/3.png"]
        assert "2 tasks; 1 images that have an answer are left out" in capsys.readouterr().err
        batch.store({1: "?", 2: "cat"})
        with pytest.raises(UserError, match="all 3 images have an answer"):
            write_tasks(batch, tmp_path / "none.json")
        assert not (tmp_path / "none.json").exists()

    def test_the_same_batch_gives_the_same_bytes(self, batch: Batch, tmp_path: Path) -> None:
        found = []
        for name in ("one", "two"):
            path = write_tasks(batch, tmp_path / name / "tasks.json")
            found.append((path.read_bytes(), (tmp_path / name / "tasks.json").read_bytes()))
        assert found[0] == found[1]

    @pytest.mark.parametrize("name", ["a\\b.png", "line\nbreak.png", "caf\udce9.png", "ä ö/é.png", "\\x0a.png"])
    def test_addresses_have_the_exact_name(self, tmp_path: Path, name: str) -> None:
        assert unescaped(escaped(name)) == name
        batch = Batch(tmp_path / "round1.csv", [Asked(0, escaped(name), "0" * 64)], CLASSES)
        write_tasks(batch, tmp_path / "tasks.json")
        [found] = json.loads((tmp_path / "tasks.json").read_text())
        data = {"image": found["data"]["image"]}
        assert read(tmp_path, [{"data": data, "annotations": [annotation("cat")]}]) == [(1, escaped(name), "cat")]

    def test_what_is_written_comes_back(self, batch: Batch, tmp_path: Path) -> None:
        write_tasks(batch, tmp_path / "tasks.json")
        tasks = json.loads((tmp_path / "tasks.json").read_text())
        export = [{**task, "annotations": [annotation(label)]} for task, label in zip(tasks, CLASSES[1:], strict=True)]
        (tmp_path / "export.json").write_text(json.dumps(export))
        assert batch.merge(tmp_path / "export.json", read_export(tmp_path / "export.json")) == 3
        assert batch.answers() == CLASSES[1:]


class TestExport:
    def test_annotations_are_answers_and_predictions_and_drafts_are_not(self, tmp_path: Path) -> None:
        draft = {"id": 3, "result": choice("dog")}
        prediction = {"model_version": "m", "result": choice("dog"), "score": 0.9}
        export = [
            task("a.png", annotation("cat"), predictions=[prediction]),
            task("b.png", predictions=[prediction]),
            task("c.png", drafts=[draft]),
            task("d.png", annotation("dog"), drafts=[{**draft, "result": choice("cat")}]),
        ]
        assert read(tmp_path, export) == [(1, "a.png", "cat"), (4, "d.png", "dog")]

    def test_skipped_tasks_cannot_be_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        export = [
            task("a.png", annotation(skipped=True)),
            task("b.png", annotation("dog", skipped=True)),
            task("c.png", annotation(skipped=True), annotation("dog")),
            task("d.png", annotation()),
            task("e.png", annotation(), annotation(skipped=True)),
        ]
        assert read(tmp_path, export) == [(1, "a.png", "?"), (2, "b.png", "?"), (3, "c.png", "dog"), (5, "e.png", "?")]
        assert "1 image(s) were submitted without a choice, and stay without an answer" in capsys.readouterr().err

    def test_people_who_agree_are_one_row(self, tmp_path: Path) -> None:
        assert read(tmp_path, [task("a.png", annotation("cat"), annotation("cat"))]) == [(1, "a.png", "cat")]
        flat = [record("b.png", label="dog", annotation_id=1), record("b.png", label="dog", annotation_id=2)]
        assert read(tmp_path, flat) == [(1, "b.png", "dog")]

    @pytest.mark.parametrize(
        "export",
        [
            [task("b.png"), task("a.png", annotation("cat"), annotation("dog"))],
            [task("a.png", annotation("cat")), task("a.png", annotation("dog"))],
            [record("a.png", label="cat"), record("a.png", label="dog")],
        ],
    )
    def test_people_who_disagree_are_named_and_nothing_is_read(self, tmp_path: Path, export: list[Any]) -> None:
        with pytest.raises(
            UserError, match=r"export\.json: task \d: 'a\.png' is labelled 'cat' and 'dog' by different"
        ):
            read(tmp_path, export)

    @pytest.mark.parametrize(
        "export",
        [
            [task("a.png", annotation("cat", "dog"))],
            [task("a.png", annotation(result=choice("cat") + choice("dog")))],
            [record("a.png", label={"choices": ["cat", "dog"]})],
            [record("a.png", label=["cat", {"choices": ["dog"]}])],
        ],
    )
    def test_several_choices_of_one_person_are_refused(self, tmp_path: Path, export: list[Any]) -> None:
        with pytest.raises(UserError, match=r"task 1: 'a\.png' has several choices in one annotation \('cat', 'dog'\)"):
            read(tmp_path, export)

    def test_other_controls_are_passed_over(self, tmp_path: Path) -> None:
        comment = {"from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": ["blurred"]}}
        assert read(tmp_path, [task("a.png", annotation(result=[comment, *choice("cat")]))]) == [(1, "a.png", "cat")]
        with pytest.raises(UserError, match="the choices are named 'quality'; name them 'label'"):
            read(tmp_path, [task("a.png", annotation(result=choice("good", name="quality")))])

    def test_flat_records(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        export = [
            record("a.png", label="cat"),
            record("b.png", choice="dog"),
            record("c.png", label={"choices": ["cat"]}),
            record("d.png", annotation_id=None),
            record("e.png"),
        ]
        assert read(tmp_path, export) == [(1, "a.png", "cat"), (2, "b.png", "dog"), (3, "c.png", "cat")]
        assert "1 image(s) were submitted" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("export", "problem"),
        [
            ({"tasks": []}, "not an export of Label Studio, which is a list"),
            ([{"name": "x", "value": 3}], "task 1: neither a task with annotations nor a record"),
            (["a.png"], "task 1: not an object"),
            ([{"data": {"image": "a.png"}, "predictions": []}], "task 1: no list of annotations, so this is no export"),
            ([task("a.png", annotations=[3])], "task 1: an annotation without its result"),
            ([task("a.png", annotation(result=[{"type": "choices"}]))], "task 1: a result without a value"),
            ([task("a.png", annotation(result=choice("")))], "task 1: '' is no choice"),
            ([record("a.png", label=3)], "task 1: 3 is no choice"),
            ([task("a.png", data={"text": "x"})], "task 1: its data has neither 'file' nor 'image'"),
        ],
    )
    def test_foreign_files_are_refused(self, tmp_path: Path, export: Any, problem: str) -> None:
        with pytest.raises(UserError, match=re.escape(problem)):
            read(tmp_path, export)

    def test_what_is_not_json_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "export.csv").write_text("image,label\na.png,cat\n")
        with pytest.raises(UserError, match=r"export\.csv: not JSON, or cut off; export the project"):
            read_export(tmp_path / "export.csv")

    @pytest.mark.parametrize(
        ("image", "files", "file"),
        [
            ("/data/local-files/?d=pets/cat/a%20b.png", (), "pets/cat/a b.png"),
            ("/data/local-files/?d=pets/cat/a%20b.png", ("cat/a b.png", "cat/b.png"), "cat/a b.png"),
            ("http://localhost:8080/data/local-files/?d=cat/1.png", ("cat/1.png",), "cat/1.png"),
            ("/data/upload/3/0a1b2c3d-1.png", (), "1.png"),
            ("/data/upload/3/0a1b2c3d-1.png", ("cat/1.png", "dog/11.png"), "cat/1.png"),
            ("https://example.com/photos/cat/1.png?size=8", ("cat/1.png",), "cat/1.png"),
            ("/data/upload/3/0a1b2c3d-1.png", ("0a1b2c3d-1.png",), "0a1b2c3d-1.png"),
        ],
    )
    def test_tasks_of_another_import_are_found_by_their_address(
        self, tmp_path: Path, image: str, files: tuple[str, ...], file: str
    ) -> None:
        export = [task("x.png", annotation("cat"), data={"image": image})]
        assert read(tmp_path, export, files) == [(1, file, "cat")]
        assert read(tmp_path, [{"image": image, "label": "cat"}], files) == [(1, file, "cat")]

    @pytest.mark.parametrize(
        ("images", "files", "problem"),
        [
            (["/data/upload/3/0a1b2c3d-1.png"], ("cat/1.png", "dog/1.png"), "may be 'cat/1.png' or 'dog/1.png'"),
            (["/data/upload/3/0a1b2c3d-1.png"], ("cat/2.png",), "not one of the 1 images that wait for a label; Label"),
            (["/data/local-files/?d=pets/1.png"], ("cat/1.png",), "not one of the 1 images that wait for a label"),
            (["/data/upload/3/0a1b2c3d-1.png", "/data/upload/3/4a1b2c3d-1.png"], (), "both have the name '1.png'"),
            (["/data/upload/3/0a1b2c3d-1.png", "/data/upload/3/4a1b2c3d-1.png"], ("cat/1.png",), "both have the name"),
        ],
    )
    def test_addresses_that_fit_no_image_or_several_are_refused(
        self, tmp_path: Path, images: list[str], files: tuple[str, ...], problem: str
    ) -> None:
        export = [task("x.png", annotation("cat"), data={"image": image}) for image in images]
        with pytest.raises(UserError, match=re.escape(problem)):
            read(tmp_path, export, files)
