"""Figures of one trial: the images that it chose, and its models over the rounds (the paper's figures 6 to 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from sklearn.manifold import TSNE

from lplgrad import modalities
from lplgrad.analysis.choices import SCORES
from lplgrad.analysis.choices import loss_correlations as correlations
from lplgrad.analysis.departures import behind, check_settings
from lplgrad.analysis.diagnostics import labeled_set, scores_of
from lplgrad.analysis.round_files import read_array, read_confidence, read_observed
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.datasets.prepared.file_names import read_names
from lplgrad.machine.errors import UserError
from lplgrad.report.document import Part
from lplgrad.report.style import TITLE_WIDTH, message, note, set_up, wrapped
from lplgrad.report.tables import Table
from lplgrad.rounds.pool import UNKNOWN, LabeledSet
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.settings import StudyFile

COLUMNS = 10
BLUE, RED = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Query:
    """A query of a trial."""

    round_number: int  # the round whose model scored the candidates
    scores: pd.DataFrame  # ``scores.csv``: a row for each candidate
    after: LabeledSet  # the labels that were bought by then, with those of the chosen candidates

    def selected(self) -> pd.DataFrame:
        """Return the candidates that were chosen, in the order of choice, and their labels in the column label."""
        picked = self.scores[self.scores["pick"] > 0].sort_values("pick")
        return picked.assign(label=picked["index"].map(pd.Series(self.after.labels, self.after.indices)))


@dataclass(frozen=True)
class Observation:
    """What ``lplgrad observe`` wrote about a round."""

    round_number: int  # the round
    labels: int  # size of the labelled set
    features: npt.NDArray[np.float32]  # penultimate features of M test examples, shape (M, D)
    # a row for each of them: class, loss, entropy, gradient_norm, predicted_loss (empty without a module)
    observed: pd.DataFrame
    confidence: pd.DataFrame  # a row for each image of the training pool: labeled (0 or 1), confidence

    @property
    def title(self) -> str:
        """The title of its panel."""
        return f"round {self.round_number} ({self.labels:,} labels)"


def chosen(file: StudyFile, trial: Trial) -> Any:
    """Draw the images that every query chose.

    Raises:
        UserError: the examples are no images.
    """
    modality = file.study.datasets[trial.dataset].modality
    if not modalities.registry.load(modality).pictures:
        raise UserError(f"--dataset: {trial.dataset} has examples of the modality {modality!r}, which are no images")
    return contact_sheet(*_queries(file, trial))


def chosen_files(file: StudyFile, trial: Trial) -> Table:
    """List the files that every query chose: columns round, index, path, class and score.

    The rows are in the order of the rounds whose model chose them, and of choice. Paths are those of ``files.csv``, and
    scores have the digits of ``scores.csv``. The class is what the annotator answered, empty if unknown.
    """
    queries, data = _queries(file, trial)
    paths, rows = read_names(data)["train"], list[tuple[Any, ...]]()
    for query in queries:
        for index, label, score in query.selected()[["index", "label", "score"]].itertuples(index=False):
            name = "" if label == UNKNOWN else data.classes[int(label)]
            shown = "" if math.isnan(score) else str(np.float32(score))
            rows.append((query.round_number, int(index), paths[int(index)], name, shown))
    head = ["round", "index", "path", "class", "score"]
    part = Part(head=head, rows=[[*map(str, row)] for row in rows])
    return Table(pd.DataFrame(rows, columns=head), "Chosen files", [part], ())


def _queries(file: StudyFile, trial: Trial) -> tuple[list[Query], DatasetArrays]:
    """Read what every query of a trial chose."""
    layout = Layout(file.study, file.unavailable)
    last = layout.rounds(trial.budget, trial.dataset)
    check_settings(layout, trial, behind(layout, trial, last))
    data = open_dataset(Path(layout.data(trial.dataset)))
    queries = [
        Query(number, scores_of(layout, trial, number, data), labeled_set(layout, trial, number + 1, data))
        for number in range(1, last)
    ]
    for query in queries:
        if query.selected()["label"].isna().any():
            path = layout.labels(trial, query.round_number + 1)
            raise UserError(f"{path}: lacks an image that its query chose; delete it and run again")
    return queries, data


def loss_correlation(file: StudyFile, trial: Trial) -> Any:
    """Draw how well scores rank the losses after each round that ``model_figures`` names."""
    return draw_loss_correlation(_observed(file, trial)[0])


def _shown(file: StudyFile, trial: Trial) -> tuple[Layout, list[int]]:
    """Return the rounds whose models the study keeps for figures."""
    layout = Layout(file.study, file.unavailable)
    rounds = layout.shown_models().get(trial)
    if rounds is None:
        raise UserError("model_figures does not name this trial, so its models were not kept")
    check_settings(layout, trial, behind(layout, trial, max(rounds), rounds))
    return layout, rounds


def _observed(file: StudyFile, trial: Trial) -> tuple[list[Observation], DatasetArrays]:
    layout, rounds = _shown(file, trial)
    data, wanted = open_dataset(Path(layout.data(trial.dataset))), file.study.model_figures
    observations = []
    for number in rounds:
        folder = Path(layout.round(trial, number))
        labeled = labeled_set(layout, trial, number, data)
        tested = min(wanted.embedded_images, len(data.splits["test"].labels))
        unlabeled = min(wanted.unlabeled_images, len(data.splits["train"].inputs) - len(labeled))
        features = read_array(folder / "features.npy", (tested, None))
        observed = read_observed(folder / "observed.csv", tested, data.splits["test"].labels)
        of_pool = read_confidence(folder / "confidence.csv", labeled.indices, unlabeled)
        observations.append(Observation(number, len(labeled), features, observed, of_pool))
    return observations, data


def contact_sheet(queries: list[Query], data: DatasetArrays) -> Any:
    """Draw a row for each query that bought labels: ten images, and how many of every class were chosen.

    Shown are the images of highest score, with class and score above. Below an image is the class that the model
    predicted, if it was wrong.

    Args:
        queries: of the trial. Those after its target accuracy was reached chose nothing; a note says so.
        data: the data set.
    """
    set_up()
    buying = [query for query in queries if len(query.selected())]
    if not buying:
        why = f"It reached its target accuracy in round {queries[0].round_number}." if queries else "It has one round."
        return message(f"No choices to show: no query of this trial bought labels. {why}")
    rows = len(buying)
    figure, axes = plt.subplots(
        rows, COLUMNS + 1, figsize=(1.05 * COLUMNS + 3.2, 1.45 * rows + 0.3), squeeze=False,
        width_ratios=[1] * COLUMNS + [2.6],
    )  # fmt: skip
    names = [" ".join(name.split()) for name in data.classes]
    largest, few = 1, len(names) <= 12
    for row, query in zip(axes, buying, strict=True):
        selected = query.selected()
        for column, axis in enumerate(row[:-1]):
            axis.axis("off")
            if column < len(selected):
                _thumbnail(axis, selected.iloc[column], data, names)
        row[0].text(
            -0.35, 0.5, f"round {query.round_number}", transform=row[0].transAxes, rotation=90, va="center", fontsize=8
        )
        known = selected["label"][selected["label"] != UNKNOWN]
        counts = np.bincount(known.to_numpy(np.int64), minlength=len(names))
        largest = max(largest, int(counts.max(initial=1)))
        # White edges would cover thin bars, and a bar narrower than a pixel would vanish without an edge of its colour.
        look = {"width": 0.8} if few else {"width": 1.0, "edgecolor": BLUE, "linewidth": 0.3}
        row[-1].bar(range(len(names)), counts, color=BLUE, **look)
        row[-1].grid(False, axis="x")
        row[-1].tick_params(labelsize=6)
        row[-1].set_xticks(range(len(names)) if few else [])
        if few:
            row[-1].set_xticklabels([name[:10] for name in names], rotation=90)
        row[-1].set_ylabel("chosen", fontsize=7)
    for axis in axes[:, -1]:
        axis.set_ylim(0, largest * 1.05)
    for axis in axes[:-1, -1]:
        axis.set_xticklabels([])
    if len(buying) < len(queries):
        note(figure, f"The trial reached its target accuracy in round {buying[-1].round_number + 1} and chose no more.")
    return figure


def _thumbnail(axis: Any, candidate: pd.Series[Any], data: DatasetArrays, names: list[str]) -> None:
    index, predicted = int(candidate["index"]), candidate["predicted_class"]
    axis.imshow(data.splits["train"].inputs[index].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    label = int(candidate["label"])
    name = "unknown" if label == UNKNOWN else names[label]
    score = "" if math.isnan(candidate["score"]) else f"{candidate['score']:.3g}"
    axis.set_title(f"{name[:12]}\n{score}", fontsize=6.5, pad=2, linespacing=1.1)
    if label != UNKNOWN and not pd.isna(predicted) and int(predicted) != label:
        below = {"transform": axis.transAxes, "ha": "center", "va": "top"}
        axis.text(0.5, -0.04, names[int(predicted)][:12], **below, fontsize=6.5, color="#B23A00")


def embeddings(file: StudyFile, trial: Trial) -> Any:
    """Draw a t-SNE of the features of test examples after each round, coloured by class (figure 6).

    Each panel is an embedding of its own. How well the classes separate can be compared between panels; positions and
    distances cannot.
    """
    observations, data = _observed(file, trial)
    set_up()
    figure, axes = plt.subplots(
        1, len(observations), figsize=(3.3 * len(observations) + 1.2, 3.6), squeeze=False, layout="constrained"
    )
    palette = sns.husl_palette(len(data.classes), s=0.85, l=0.6)
    for axis, observation in zip(axes[0], observations, strict=True):
        perplexity = min(30.0, (len(observation.features) - 1) / 3)
        embedding = TSNE(init="pca", perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(
            observation.features.astype(np.float64)
        )
        colors = [palette[label] for label in observation.observed["class"]]
        axis.scatter(embedding[:, 0], embedding[:, 1], c=colors, s=4, linewidths=0, rasterized=True)
        axis.set_title(observation.title, loc="left")
        axis.set(xticks=[], yticks=[])
        axis.set_aspect("equal", adjustable="datalim")
        axis.spines[:].set_visible(False)
    if len(data.classes) <= 20:
        handles = [Line2D([], [], marker="o", linestyle="", markersize=5, color=color) for color in palette]
        figure.legend(handles, [wrapped(name, TITLE_WIDTH) for name in data.classes], loc="outside right center")
    return figure


def confidence(file: StudyFile, trial: Trial) -> Any:
    """Draw histograms of the confidence in labelled and unlabelled examples after each round, as shares (figure 7)."""
    observations, _ = _observed(file, trial)
    set_up()
    figure, axes = plt.subplots(
        1, len(observations), figsize=(3.1 * len(observations), 3.2), squeeze=False, sharex=True, sharey=True
    )
    edges = np.linspace(0, 1, 21)
    for axis, observation in zip(axes[0], observations, strict=True):
        frame = observation.confidence
        for is_labeled, name, color, filled in ((0, "unlabelled", BLUE, True), (1, "labelled", RED, False)):
            values = frame.loc[frame["labeled"] == is_labeled, "confidence"]
            counts, _ = np.histogram(values, edges)
            axis.stairs(
                counts / max(len(values), 1), edges, fill=filled, color=color, alpha=0.45 if filled else 1.0,
                linewidth=1.6, label=f"{name} ({len(values):,})",
            )  # fmt: skip
        axis.set_title(observation.title, loc="left")
        axis.set_xlabel("confidence")
        axis.set_xlim(0, 1)
        axis.legend(loc="upper left")
    axes[0, 0].set_ylabel("share of examples")
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def draw_loss_correlation(observations: list[Observation]) -> Any:
    """Draw how well each score ranks test examples by their true loss after each round: Spearman's correlation."""
    set_up()
    figure, axis = plt.subplots(figsize=(5.6, 3.4))
    looks = {"gradient_norm": (RED, "o"), "predicted_loss": ("#E69F00", "s"), "entropy": (BLUE, "D")}
    of_rounds = [correlations(seen.observed) for seen in observations]
    for name in SCORES:
        (color, marker), values = looks[name], [of_round[name] for of_round in of_rounds]
        if not np.isnan(values).all():
            axis.plot(
                [seen.labels for seen in observations], values, color=color, marker=marker,
                label=name.replace("_", " "), markeredgecolor="white",
            )  # fmt: skip
    axis.axhline(0, color="#3C3C3C", linewidth=0.8)
    lowest = min((value for of_round in of_rounds for value in of_round.values() if value < 0), default=0.0)
    axis.set_ylim(lowest - 0.05, 1.05)
    if len({seen.labels for seen in observations}) == 1:
        axis.set_xticks([observations[0].labels])
    axis.set_xlabel("labelled examples")
    axis.set_ylabel("rank correlation\nwith the true loss")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def class_accuracy(file: StudyFile, trial: Trial, classes: pd.DataFrame) -> Any:
    """Draw the test accuracy of every class after each round (figure 8)."""
    _, rounds = _shown(file, trial)
    mine = classes[(classes[list(vars(trial))] == list(vars(trial).values())).all(axis=1)]
    set_up()
    shown = mine[mine["round"].isin(rounds)].assign(accuracy=lambda frame: frame["accuracy"].astype(float) * 100)
    names = list(dict.fromkeys(shown["class"]))
    titles = [wrapped(name, TITLE_WIDTH) for name in names]
    height = 3.4 if len(names) <= 20 else 1.6 + 0.12 * len(names)
    height += 0.12 * sum(title.count("\n") for title in titles)
    numbers = sorted(set(shown["round"]))
    figure, axes = plt.subplots(
        1, max(len(numbers), 1), figsize=(3.0 * len(numbers) + 0.6, height), squeeze=False, sharex=True, sharey=True
    )
    for axis, number in zip(axes[0], numbers, strict=True):
        part = shown[shown["round"] == number].set_index("class").loc[names]
        bars = axis.barh(range(len(names)), part["accuracy"], color=BLUE, height=0.75)
        axis.set_yticks(range(len(names)), titles)
        if len(names) <= 20:
            labels = [f"{value:.0f}" for value in part["accuracy"]]
            axis.bar_label(bars, labels, padding=2, fontsize=7)
        axis.set_title(f"round {number} ({part['labels'].iloc[0]:,} labels)", loc="left")
        axis.set_xlabel("test accuracy (%)")
        axis.set_xlim(0, 108)
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", labelsize=8 if len(names) <= 20 else 5)
    axes[0, 0].invert_yaxis()
    return figure
