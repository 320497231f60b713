"""Review a study that a person labels: accuracy, confused classes, suspicious labels, and the images that come next."""

from __future__ import annotations

import argparse
import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from lplgrad.analysis import proportions
from lplgrad.analysis.departures import check_settings
from lplgrad.analysis.round_files import read_array, read_predictions
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.datasets.prepared.shards import PoolFile, known_images, open_pool
from lplgrad.labeling.asking import read_batch
from lplgrad.labeling.batch import Asked
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, write_text
from lplgrad.report.document import Part, Picture, document, paragraphs
from lplgrad.report.style import save, set_up
from lplgrad.report.wording import DASH
from lplgrad.rounds.files import read_labeled
from lplgrad.rounds.pool import LabeledSet
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study_file

BLUE, RED = "#2C6FAA", "#B23A00"
CONFIDENT = 0.5  # probability of another class from which on a label is suspicious
SHOWN, PAIRS, EXAMPLES = 24, 6, 4  # suspicious labels, confused pairs, and images of each pair
MEASURED = ("accuracy", "low", "high", "gain", "gain_low", "gain_high")
STEPS = 3  # rounds back to which the learning curve is compared


@dataclass(frozen=True)
class Reviewed:
    """What is known of a round."""

    number: int
    pool: PoolFile
    labeled: LabeledSet
    right: npt.NDArray[np.bool_]  # whether the model is right, for each test image, shape (N,)


def run(arguments: argparse.Namespace) -> None:
    """Read the rounds, and write tables, figures and the page.

    Raises:
        UserError: nobody labels the study's data set, or a file of a round is missing or not of this study.
    """
    file = read_study_file(arguments.study)
    name = file.study.person
    if name is None:
        raise UserError(f"{arguments.study}: no data set with oracle: person; lplgrad statistics compares strategies")
    layout = Layout(file.study)
    trial = next(layout.trials())
    check_settings(layout, trial)
    data = open_dataset(Path(layout.data(name)))
    test = data.splits["test"].labels
    rounds, predictions = [], np.empty(0, np.int64)
    for number in layout.numbers(trial):
        pool = PoolFile.read(Path(layout.pool(trial, number)))
        labeled = read_labeled(Path(layout.labels(trial, number)), pool.examples, len(pool.classes))
        logits = read_array(Path(layout.trained(trial, number), "test_logits.npy"), (len(test), len(pool.classes)))
        predictions = logits.argmax(axis=1)
        rounds.append(Reviewed(number, pool, labeled, predictions == test))
    confidence = _softmax(logits).max(axis=1)
    data, newest = open_pool(data, Path(layout.pool(trial, rounds[-1].number)))
    names = known_images(data.folder, len(newest.shards)).names
    waiting = read_batch(Path(layout.batch(trial, rounds[-1].number)))
    folder = arguments.output
    paths = [Path(layout.round(trial, one.number), "scores.csv") for one in rounds[:-1]]
    nothing = pd.DataFrame(columns=["index", "confidence", "predicted_class"])
    scores = [read_predictions(path) if path.exists() else nothing for path in paths]
    suspicious, compared = suspicious_labels(rounds[-1].labeled, scores, newest.classes, names)
    enough = len(test) >= proportions.FEWEST
    tables = {
        "rounds": rounds_table(rounds) if enough else rounds_table(rounds).assign(**dict.fromkeys(MEASURED, math.nan)),
        "confusions": confusions(test, predictions, newest.classes),
        "suspicious": suspicious,
    }
    for table, frame in tables.items():
        write_text(folder / f"{table}.csv", frame.to_csv(index=False, float_format="%.6g"))
    drawn = read_json(data.folder / "provenance.json").get("test_set") != "test/"
    figures = {"confusion": _confusion_matrix(test, predictions, newest.classes)}
    if enough:
        figures["curve"] = _curve(tables["rounds"])
    for name, figure in figures.items():
        save(figure, [folder / f"{name}.svg"])
    parts = [
        Part(text=paragraphs(__file__, "review", round=rounds[-1].number, **_counts(rounds[-1]))),
        _classes_part(rounds[-1], test),
        _accuracy_part(rounds, tables["rounds"], folder / "curve.svg" if enough else None, drawn, test),
        *_confusion_parts(tables["confusions"], data, predictions, confidence, folder / "confusion.svg", enough),
        _suspicious_part(suspicious, data, compared),
        _next_part(waiting, data),
    ]
    write_text(folder / "review.html", document(f"{file.study.title}: round {rounds[-1].number}", parts))


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _counts(one: Reviewed) -> dict[str, int]:
    """Return how many labels a round has, of which kind."""
    known = len(one.labeled.known)
    return {
        "bought": len(one.labeled), "known": known, "unknown": len(one.labeled) - known,
        "left": one.pool.examples - len(one.labeled) - len(one.pool.removed), "removed": len(one.pool.removed),
    }  # fmt: skip


def rounds_table(rounds: Sequence[Reviewed]) -> pd.DataFrame:
    """Return a row for each round: bought, trained_on, test_images, accuracy, low, high, gain, gain_low, gain_high.

    The gain is the accuracy minus that of the round before, on the same test images; NaN in round 1.
    """
    rows: list[dict[str, Any]] = []
    for before, one in zip([None, *rounds], rounds, strict=False):
        estimate = proportions.accuracy(one.right)
        row = {
            "round": one.number, "bought": len(one.labeled), "trained_on": len(one.labeled.known),
            "test_images": len(one.right), "accuracy": estimate.value, "low": estimate.low, "high": estimate.high,
        }  # fmt: skip
        gain = (
            proportions.Proportion(*[math.nan] * 3)
            if before is None
            else proportions.difference(before.right, one.right)
        )
        rows.append({**row, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high})
    return pd.DataFrame(rows)


def confusions(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], classes: Sequence[str]
) -> pd.DataFrame:
    """Return the pairs of classes that the model confuses in the test set, most frequent first.

    Returns:
        Columns class, predicted, images, of_class (test images of the class).
    """
    pairs = pd.DataFrame({"class": labels, "predicted": predictions})
    wrong = pairs[pairs["class"] != pairs["predicted"]].value_counts(sort=False).reset_index(name="images")
    wrong["of_class"] = wrong["class"].map(pairs["class"].value_counts())
    wrong = wrong.sort_values(["images", "class", "predicted"], ascending=[False, True, True], kind="stable")
    for column in ("class", "predicted"):
        wrong[column] = [classes[number] for number in wrong[column]]
    return wrong.reset_index(drop=True)


def suspicious_labels(
    labeled: LabeledSet, scores: Sequence[pd.DataFrame], classes: Sequence[str], names: Sequence[str]
) -> tuple[pd.DataFrame, int]:
    """Return the labels that contradict a model that had not seen them, and how many were compared.

    A label is compared if the image was a candidate of the query before, and the query used a model.

    Args:
        labeled: the newest labelled set.
        scores: of the candidates of each round but the newest, as ``read_predictions`` returns them.
        classes: names of the classes.
        names: of the images of the pool.

    Returns:
        First columns index, file, round, label, predicted, confidence, the most confident contradiction first. Only
        those are listed whose other class has a probability of ``CONFIDENT`` or more.
    """
    rows, compared = [], 0
    known = labeled.known
    for number, frame in enumerate(scores, start=2):
        there = known.rounds == number
        label = dict(zip(known.indices[there].tolist(), known.labels[there].tolist(), strict=True))
        for index, sure, other in frame[["index", "confidence", "predicted_class"]].itertuples(index=False):
            compared += index in label and not math.isnan(other)
            if index in label and sure >= CONFIDENT and int(other) != label[index]:
                rows.append((index, names[index], number, classes[label[index]], classes[int(other)], sure))
    frame = pd.DataFrame(rows, columns=["index", "file", "round", "label", "predicted", "confidence"])
    return frame.sort_values("confidence", ascending=False, kind="stable").reset_index(drop=True), compared


def _classes_part(one: Reviewed, test: npt.NDArray[np.int64]) -> Part:
    """Show how many labels each class has."""
    known, size = one.labeled.known, len(one.pool.classes)
    newest = np.bincount(known.labels[known.rounds == one.number], minlength=size)
    counts, of_test = np.bincount(known.labels, minlength=size), np.bincount(test, minlength=size)
    rows = [
        (name, f"{counts[place]:,}", f"{newest[place]:,}", f"{of_test[place]:,}")
        for place, name in enumerate(one.pool.classes)
    ]
    return Part("Labels by class", (), ("class", "trained on", "new in this round", "test images"), rows)


def _accuracy_part(
    rounds: Sequence[Reviewed], table: pd.DataFrame, figure: Path | None, drawn: bool, test: npt.NDArray[np.int64]
) -> Part:
    """Show the accuracy of every round, and whether more labels pay off."""
    tests = len(rounds[-1].right)
    if figure is None:
        text = paragraphs(__file__, "too_few_tests", tests=tests, fewest=proportions.FEWEST)
        rows = [(str(one.number), f"{len(one.labeled):,}", f"{len(one.labeled.known):,}") for one in rounds]
        return Part("Accuracy", text, ("round", "bought", "trained on"), rows)
    unseen = [name for place, name in enumerate(rounds[-1].pool.classes) if place not in set(test.tolist())]
    text = paragraphs(
        __file__,
        "accuracy_of_round",
        tests=tests,
        drawn=drawn,
        unseen=", ".join(unseen),
        **_percent(table.iloc[-1], "accuracy", "low", "high"),
    )
    if len(rounds) > 1:
        before, last = rounds[max(0, len(rounds) - 1 - STEPS)], rounds[-1]
        gain = proportions.difference(before.right, last.right)
        more = len(last.labeled) - len(before.labeled)
        slope = {key: f"{100 * value * 100 / max(more, 1):+.1f}" for key, value in gain._asdict().items()}
        verdict = "yes" if gain.low > 0 else "no" if gain.high < 0 else "unknown"
        text += paragraphs(__file__, "pays_off", verdict=verdict, first=before.number, more=more, **slope)
    cells = []
    for row in table.to_dict("records"):
        shown = _percent(row, "accuracy", "low", "high")
        change = f"{100 * row['gain']:+.1f}\n{100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f}"
        cells.append(
            (
                str(row["round"]), f"{row['bought']:,}", f"{row['trained_on']:,}",
                f"{shown['accuracy']}\n{shown['low']} to {shown['high']}", DASH if math.isnan(row["gain"]) else change,
            )
        )  # fmt: skip
    head = ("round", "bought", "trained on", "accuracy (%)\n95 % interval", "minus the round before\n95 % interval")
    return Part("Accuracy", text, head, cells, pictures=[_picture_of(figure, "Learning curve")])


def _percent(row: Any, *keys: str) -> dict[str, str]:
    return {key: f"{100 * row[key]:.1f}" for key in keys}


def _confusion_parts(
    table: pd.DataFrame,
    data: DatasetArrays,
    predictions: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float64],
    figure: Path,
    enough: bool,
) -> list[Part]:
    """Show the confusion matrix, and images of the pairs that are confused most."""
    matrix = Part(
        "Confused classes",
        paragraphs(__file__, "confused", wrong=int(table["images"].sum()), tests=len(predictions), enough=enough),
        pictures=[_picture_of(figure, "Confusion matrix of the test images")],
    )
    parts, labels = [matrix], data.splits["test"].labels
    for row in table.head(PAIRS).to_dict("records"):
        one, other = data.classes.index(row["class"]), data.classes.index(row["predicted"])
        places = np.flatnonzero((labels == one) & (predictions == other))
        places = places[np.argsort(-confidence[places], kind="stable")][:EXAMPLES]
        pictures = [
            _picture(data.splits["test"].inputs[place], [f"{confidence[place]:.0%} sure"], f"test image {place}")
            for place in places
        ]
        rate = f": {row['images']} of {row['of_class']} test images" if enough else ""
        heading = f"{row['class']} taken for {row['predicted']}{rate}"
        parts.append(Part(heading, level=3, pictures=pictures))
    return parts


def _suspicious_part(table: pd.DataFrame, data: DatasetArrays, compared: int) -> Part:
    pictures = [
        _picture(
            data.splits["train"].inputs[row["index"]],
            [
                f"you: {row['label']}",
                f"model: {row['predicted']} ({row['confidence']:.0%})",
                f"round {row['round']}: {row['file']}",
            ],
            row["file"],
        )
        for row in table.head(SHOWN).to_dict("records")
    ]
    text = paragraphs(__file__, "suspicious", count=len(table), shown=len(pictures), compared=compared)
    return Part("Suspicious labels", text, pictures=pictures)


def _next_part(waiting: Sequence[Asked], data: DatasetArrays) -> Part:
    pictures = [
        _picture(
            data.splits["train"].inputs[image.index],
            [*([f"{image.suggestion}? ({image.confidence:.0%})"] if image.confidence is not None else []), image.file],
            image.file,
        )
        for image in waiting
    ]
    return Part(
        "The next images to label",
        paragraphs(__file__, "next_images", count=len(waiting), suggested=any(image.suggestion for image in waiting)),
        pictures=pictures,
    )


def _picture(pixels: npt.NDArray[np.uint8], caption: Sequence[str], alt: str) -> Picture:
    """Return a stored image, shape (H, W, C), for the page."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze())).save(file, "PNG")
    return Picture(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", alt, caption)


def _picture_of(path: Path, alt: str) -> Picture:
    """Return a figure for the page."""
    return Picture(f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}", alt, (), wide=True)


def _confusion_matrix(labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], classes: Sequence[str]) -> Any:
    """Draw how many test images of each class were taken for which class. Colours are shares of the class."""
    set_up()
    size = len(classes)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(3.2, 0.42 * size + 1.6), 14)
    figure, axis = plt.subplots(figsize=(side + 0.8, side))
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name in classes]
    small = 8 if size <= 20 else 6 if size <= 40 else 4
    axis.set_xticks(range(size), names, rotation=90, fontsize=small)
    axis.set_yticks(range(size), names, fontsize=small)
    axis.set(xlabel="predicted", ylabel="class")
    for row, column in np.argwhere(counts) if size <= 40 else ():
        color = "white" if shares[row, column] > 0.55 else "#1b1b1b"
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=small, color=color)
    figure.colorbar(drawn, ax=axis, fraction=0.04, pad=0.02, label="share of the class")
    return figure


def _curve(table: pd.DataFrame) -> Any:
    """Draw the accuracy by the number of labels that were bought, with 95 % intervals."""
    set_up()
    figure, axis = plt.subplots(figsize=(5.6, 3.2))
    accuracy = 100 * table["accuracy"]
    reach = [accuracy - 100 * table["low"], 100 * table["high"] - accuracy]
    axis.errorbar(table["bought"], accuracy, yerr=reach, color=BLUE, marker="o", markersize=4, capsize=3, linewidth=1.6)
    axis.set(xlabel="labels bought", ylabel="test accuracy (%)")
    return figure
