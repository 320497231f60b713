"""Figures of single models over the rounds of a trial (paper, figures 6 to 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lplgrad.analysis.choices import SCORES
from lplgrad.analysis.choices import loss_correlations as correlations
from lplgrad.report.style import TITLE_WIDTH, set_up, wrapped


@dataclass(frozen=True)
class Observation:
    """What ``lplgrad observe`` wrote of a round.

    Attributes:
        round_number: the round.
        labels: size of the labelled set.
        features: penultimate features of M test images, shape (M, D).
        asked: a row for each of them: class, loss, entropy, gradient_norm, predicted_loss (empty without a module).
        confidence: a row an image of the training pool: labeled (0 or 1), confidence.
    """

    round_number: int
    labels: int
    features: npt.NDArray[np.float32]
    asked: pd.DataFrame
    confidence: pd.DataFrame

    @property
    def title(self) -> str:
        """Over its panel."""
        return f"round {self.round_number} ({self.labels:,} labels)"


def embeddings(observations: list[Observation], classes: list[str]) -> Any:
    """t-SNE of the features of test images after each round (figure 6), coloured by class.

    Each panel is an embedding of its own: positions cannot be compared between panels, how well classes part can.
    """
    from sklearn.manifold import TSNE

    set_up()
    figure, axes = plt.subplots(
        1, len(observations), figsize=(3.3 * len(observations) + 1.2, 3.6), squeeze=False, layout="constrained"
    )
    palette = sns.husl_palette(len(classes), s=0.85, l=0.6)
    for axis, observation in zip(axes[0], observations, strict=True):
        perplexity = min(30.0, (len(observation.features) - 1) / 3)
        embedding = TSNE(init="pca", perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(
            observation.features.astype(np.float64)
        )
        colors = [palette[label] for label in observation.asked["class"]]
        axis.scatter(embedding[:, 0], embedding[:, 1], c=colors, s=4, linewidths=0, rasterized=True)
        axis.set_title(observation.title, loc="left")
        axis.set(xticks=[], yticks=[])
        axis.set_aspect("equal", adjustable="datalim")
        axis.spines[:].set_visible(False)
    if len(classes) <= 20:
        handles = [Line2D([], [], marker="o", linestyle="", markersize=5, color=color) for color in palette]
        figure.legend(handles, [wrapped(name, TITLE_WIDTH) for name in classes], loc="outside right center")
    return figure


def confidences(observations: list[Observation]) -> Any:
    """Histograms of the model's confidence in labelled and in unlabelled images after each round (figure 7), as shares
    of each, since their numbers differ."""
    set_up()
    figure, axes = plt.subplots(
        1, len(observations), figsize=(3.1 * len(observations), 3.2), squeeze=False, sharex=True, sharey=True
    )
    edges = np.linspace(0, 1, 21)
    for axis, observation in zip(axes[0], observations, strict=True):
        frame = observation.confidence
        for is_labeled, name, color, filled in ((0, "unlabelled", "#0072B2", True), (1, "labelled", "#D55E00", False)):
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
    axes[0, 0].set_ylabel("share of images")
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def loss_correlations(observations: list[Observation]) -> Any:
    """How well each score ranks test images by their true loss, after each round: Spearman's correlation."""
    set_up()
    figure, axis = plt.subplots(figsize=(5.6, 3.4))
    looks = {"gradient_norm": ("#D55E00", "o"), "predicted_loss": ("#E69F00", "s"), "entropy": ("#0072B2", "D")}
    found = [correlations(seen.asked) for seen in observations]
    for name in SCORES:
        (color, marker), values = looks[name], [of_round[name] for of_round in found]
        if not np.isnan(values).all():
            axis.plot(
                [seen.labels for seen in observations], values, color=color, marker=marker,
                label=name.replace("_", " "), markeredgecolor="white",
            )  # fmt: skip
    axis.axhline(0, color="#3C3C3C", linewidth=0.8)
    lowest = min((value for of_round in found for value in of_round.values() if value < 0), default=0.0)
    axis.set_ylim(lowest - 0.05, 1.05)
    if len({seen.labels for seen in observations}) == 1:
        axis.set_xticks([observations[0].labels])
    axis.set_xlabel("labelled images")
    axis.set_ylabel("rank correlation\nwith the true loss")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def class_accuracies(classes: pd.DataFrame, rounds: list[int]) -> Any:
    """Test accuracy of every class after each round (figure 8).

    Args:
        classes: a row a round and class of one trial: round, labels, class, accuracy.
        rounds: the rounds to show.
    """
    set_up()
    shown = classes[classes["round"].isin(rounds)].assign(accuracy=lambda frame: frame["accuracy"].astype(float) * 100)
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
        bars = axis.barh(range(len(names)), part["accuracy"], color="#0072B2", height=0.75)
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
