"""Label Studio: write the images of a batch as tasks that it imports, and read the answers that it exports.

The formats are those of its guide: tasks with predictions for the import, and for the export JSON (tasks with their
annotations) and JSON-MIN (a flat record for each annotation).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from lplgrad.labeling.batch import CANNOT_TELL, LATER, Asked, Batch
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import escaped, unescaped, write_text
from lplgrad.machine.log import say

HOTKEYS = "1234567890"  # of the first classes; Label Studio gives letters to the others
CHOICES = ("label", "choice")  # names of the choices in a labelling configuration: ours, and that of its templates
_EXPORT = "export the project from Label Studio as JSON"


class _Vote(NamedTuple):
    """What an annotation says about an image, or that a task has none."""

    number: int  # of the task, from 1
    file: str
    address: str  # of the image, if the name was found from it
    choices: list[str]
    annotated: bool
    skipped: bool


def write_tasks(batch: Batch, path: Path, prefix: str = "/data/local-files/?d=", model: str = "") -> Path:
    """Write the images without an answer as tasks for Label Studio, and beside them the labelling configuration.

    An image that was put off (``LATER``) is a task too. The suggestion of the model is a prediction, which Label Studio
    shows as a choice to confirm or change.

    Args:
        batch: the images.
        path: the file of tasks. The configuration has the same name and ends in ``.xml``.
        prefix: what precedes an image's path in its address. The path is relative to the data set's folder. Label
            Studio serves files relative to its document root, so this is usually ``/data/local-files/?d=<folder>/``.
        model: the name of the model that made the suggestions.

    Returns:
        The path of the labelling configuration.

    Raises:
        UserError: every image has an answer already, the table cannot be read, or Label Studio cannot show a class.
    """
    answers = batch.answers() if batch.table.exists() else [""] * len(batch)
    if variables := [name for name in batch.classes if re.search(r"\$\w", name)]:
        raise UserError(
            f"class {variables[0]!r}: Label Studio replaces words after $ by data of the task; rename the class, or "
            "label in the table or the page"
        )
    asked = [image for image, answer in zip(batch.images, answers, strict=True) if answer in ("", LATER)]
    if not asked:
        raise UserError(f"{batch.table}: all {len(batch)} images have an answer, so there is no task to write")
    configuration = path.with_suffix(".xml")
    write_text(configuration, _configuration(batch.classes))
    tasks = [_task(image, prefix, model) for image in asked]
    write_text(path, json.dumps(tasks, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    left_out = len(batch) - len(asked)
    say(f"{path}: {len(asked)} tasks" + (f"; {left_out} images that have an answer are left out" if left_out else ""))
    return configuration


def read_export(path: Path, files: Collection[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Read the answers in an export of Label Studio, as JSON or JSON-MIN, for ``Batch.merge``.

    An image that everybody skipped is ``CANNOT_TELL``; a label of one person counts more than another's skip. Drafts
    and predictions are no answers. An annotation that was submitted without a choice is none either.

    Args:
        path: the export.
        files: the names of the batch's images. They are needed only if the tasks were not written by ``write_tasks``
            and therefore lack ``file``: the name is then found from the image's address.

    Returns:
        For each image with an answer the number of its task, from 1, and the cells ``file`` and ``label``.

    Raises:
        UserError: the file is no such export, people disagree, an annotation has several choices, or an address fits no
            image or several.
    """
    try:
        tasks = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON, or cut off; {_EXPORT}") from None
    if not isinstance(tasks, list):
        raise UserError(f"{path}: not an export of Label Studio, which is a list of tasks; {_EXPORT}")
    images: dict[str, list[_Vote]] = {}
    for number, task in enumerate(tasks, start=1):
        for vote in _votes(f"{path}: task {number}", number, task, files):
            images.setdefault(vote.file, []).append(vote)
    rows = []
    empty = 0
    for file, votes in images.items():
        answer = _answer(path, file, votes)
        if answer:
            rows.append((votes[0].number, {"file": file, "label": answer}))
        empty += not answer and any(vote.annotated for vote in votes)
    if empty:
        say(f"{path}: {empty} image(s) were submitted without a choice, and stay without an answer")
    return rows


def _configuration(classes: list[str]) -> str:
    keys = [f' hotkey="{key}"' for key in HOTKEYS[: len(classes)]] + [""] * (len(classes) - len(HOTKEYS))
    choices = "".join(f"    <Choice value={quoteattr(name)}{key}/>\n" for name, key in zip(classes, keys, strict=True))
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        '  <Choices name="label" toName="image" choice="single" required="true" showInline="true">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def _task(image: Asked, prefix: str, model: str) -> dict[str, Any]:
    address = prefix + quote(os.fsencode(unescaped(image.file)))
    task: dict[str, Any] = {"data": {"image": address, "file": image.file}}
    if image.suggestion:
        prediction: dict[str, Any] = {"model_version": model} if model else {}
        if image.confidence is not None:
            prediction["score"] = image.confidence
        choice = {"choices": [image.suggestion]}
        region = {"id": "suggestion", "from_name": "label", "to_name": "image", "type": "choices", "value": choice}
        task["predictions"] = [{**prediction, "result": [region]}]
    return task


def _answer(path: Path, file: str, votes: list[_Vote]) -> str:
    """Return what several people say about an image: a class, ``CANNOT_TELL``, or nothing.

    Raises:
        UserError: they disagree, or the votes are about two images of the same name.
    """
    if len(addresses := sorted({vote.address for vote in votes})) > 1:
        raise UserError(
            f"{path}: the images {addresses[0]!r} and {addresses[1]!r} both have the name {file!r}, so their answers "
            "cannot be told apart; import tasks that LPLgrad wrote"
        )
    labels = list(dict.fromkeys(choice for vote in votes for choice in vote.choices))
    if len(labels) > 1:
        raise UserError(
            f"{path}: task {votes[0].number}: {file!r} is labelled {labels[0]!r} and {labels[1]!r} by different "
            "annotations; delete all but the right ones in Label Studio and export again"
        )
    if labels:
        return labels[0]
    return CANNOT_TELL if any(vote.skipped for vote in votes) else ""


def _votes(where: str, number: int, task: object, files: Collection[str]) -> Iterator[_Vote]:
    """Yield a vote for each annotation of a task; for a task without annotations one that says so."""
    if not isinstance(task, dict):
        raise UserError(f"{where}: not an object; {_EXPORT}")
    if not isinstance(task.get("data"), dict):
        yield _flat_vote(where, number, task, files)
        return
    data, annotations = task["data"], task.get("annotations")
    if not isinstance(annotations, list):
        raise UserError(f"{where}: no list of annotations, so this is no export; {_EXPORT}")
    file, address = _file(where, data, files)
    if not annotations:
        yield _Vote(number, file, address, [], annotated=False, skipped=False)
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result") or [], list):
            raise UserError(f"{where}: an annotation without its result; {_EXPORT}")
        skipped = annotation.get("was_cancelled") is True
        choices = [] if skipped else _region_choices(where, annotation.get("result") or [])
        _check_single(where, file, choices)
        yield _Vote(number, file, address, choices, annotated=True, skipped=skipped)


def _region_choices(where: str, regions: list[Any]) -> list[str]:
    """Return the choices in the result of an annotation. Other controls, such as comments, are passed over."""
    found: list[str] = []
    for region in regions:
        if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
            raise UserError(f"{where}: a result without a value; {_EXPORT}")
        if region.get("type") != "choices":
            continue
        if region.get("from_name") not in CHOICES:
            raise UserError(
                f"{where}: the choices are named {region.get('from_name')!r}; name them 'label' in the labelling "
                "configuration, and only these"
            )
        found += _texts(where, region["value"])
    return found


def _flat_vote(where: str, number: int, record: Mapping[str, Any], files: Collection[str]) -> _Vote:
    """Return the vote of a record of JSON-MIN. Skipped annotations are not in such an export."""
    if "annotation_id" not in record and not any(name in record for name in CHOICES):
        raise UserError(f"{where}: neither a task with annotations nor a record of JSON-MIN; {_EXPORT}")
    file, address = _file(where, record, files)
    answers = [record[name] for name in CHOICES if record.get(name) is not None]
    choices = [choice for answer in answers for choice in _texts(where, answer)]
    _check_single(where, file, choices)
    annotated = record.get("annotation_id") is not None
    return _Vote(number, file, address, choices, annotated=annotated, skipped=False)


def _texts(where: str, value: object) -> list[str]:
    """Return the choices in a value: a text, a list, or ``{"choices": [...]}``."""
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, dict) and "choices" in value:
        value = value["choices"]
    if not isinstance(value, list):
        raise UserError(f"{where}: {value!r} is no choice; {_EXPORT}")
    return [text for one in value for text in _texts(where, one)]


def _check_single(where: str, file: str, choices: list[str]) -> None:
    if len(choices) > 1:
        raise UserError(
            f"{where}: {file!r} has several choices in one annotation ({', '.join(map(repr, choices))}); keep one, and "
            'set choice="single" in the labelling configuration'
        )


def _file(where: str, data: Mapping[str, Any], files: Collection[str]) -> tuple[str, str]:
    """Return the name of a task's image: its ``file``, or what its address says, and then the address too."""
    file, image = data.get("file"), data.get("image")
    if isinstance(file, str) and file:
        return file, ""
    if not isinstance(image, str) or not image:
        raise UserError(f"{where}: its data has neither 'file' nor 'image', so its image is unknown")
    _, local, path = image.partition("?d=")
    if local:
        names = [path.partition("&")[0]]
    else:  # Label Studio puts eight random digits before the name of an upload
        uploaded = urlsplit(image).path.rpartition("/")[2]
        names = list(dict.fromkeys([re.sub(r"^[0-9a-f]{8}-", "", uploaded), uploaded]))
    names = [escaped(unquote(name, errors="surrogateescape").lstrip("/")) for name in names]
    fitting = [known for known in files if any(_same_end(known, name) for name in names)]
    if len(fitting) == 1 or not files:
        return (fitting or names)[0], image
    if not fitting:
        renamed = "" if local else "; Label Studio changes names of uploads, so import tasks that LPLgrad wrote"
        raise UserError(
            f"{where}: the image {image!r} is not one of the {len(files)} images that wait for a label{renamed}"
        )
    raise UserError(
        f"{where}: the image {image!r} may be {fitting[0]!r} or {fitting[1]!r}; import tasks that LPLgrad wrote"
    )


def _same_end(one: str, other: str) -> bool:
    """Return whether a path is the other, or its last folders and name."""
    return f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")
