"""Measurements of studies that never ran, for tests of what is computed from measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lplgrad.analysis.trained import trained
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile

HOME = Path(__file__).parents[1]


STUDY = StudyFile(study=read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]))


NAMES = ["lplgrad", "entropy", "random"]


RECIPES = {"lplgrad": "joint", "entropy": "plain", "random": "plain"}


ACQUISITIONS = {"lplgrad": "gradient_norm", "entropy": "entropy", "random": "random"}


# Over tests/tiny.yaml: the study whose measurements ``study`` makes.
OVERLAY = {"run": {"seeds": [1, 2, 3, 4, 5]}, "datasets": {"digits": {"budgets": {"small": {"labels": 40}}}}}


def study(
    seeds: int = 5, rounds: int = 4, panels: tuple[tuple[str, str], ...] = (("small", "digits"),), gain: float = 1.0
) -> pd.DataFrame:
    """Measurements with luck that strategies of a seed share; lplgrad is ``gain`` points better."""
    generator = np.random.default_rng(1)
    rows = []
    for budget, dataset in panels:
        shared = generator.normal(scale=2, size=(seeds, rounds))
        for name in NAMES:
            own = generator.normal(scale=0.5, size=(seeds, rounds))
            own[:, 0] = 0
            for seed in range(seeds):
                for number in range(rounds):
                    points = 50 + 8 * number + shared[seed, number] + own[seed, number] + gain * (name == "lplgrad")
                    rows.append(
                        {
                            "budget": budget, "dataset": dataset, "strategy": name, "recipe": RECIPES[name],
                            "acquisition": ACQUISITIONS[name], "seed": seed + 1,
                            "round": number + 1, "labels": 10 * (number + 1), "accuracy": points / 100,
                            "train_loss": 1.0, "repeats": 0, "torch": "2",
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def by_tens(budget: str, dataset: str, number: int) -> int:
    """The labels that all these trials have bought by a round."""
    return 10 * number


def trial(
    *accuracies: float, strategy: str = "lplgrad", seed: int = 1, labels: int = 10, repeats: int = 0
) -> list[dict[str, Any]]:
    """The rows of one trial, accuracies in percent. It stopped if some rounds repeat its last one."""
    return [
        {
            "budget": "small", "dataset": "digits", "strategy": strategy, "recipe": RECIPES[strategy],
            "acquisition": strategy, "seed": seed, "round": number, "labels": labels * number,
            "accuracy": accuracy / 100, "repeats": repeats if number == len(accuracies) else 0,
        }
        for number, accuracy in enumerate(accuracies, start=1)
    ]  # fmt: skip


def stopping(frame: pd.DataFrame, strategy: str, seed: int, last: int) -> pd.DataFrame:
    """The measurements if one trial had reached its target accuracy after the round ``last``."""
    again = (frame["strategy"] == strategy) & (frame["seed"] == seed) & (frame["round"] > last)
    return trained(frame, again).assign(repeats=lambda found: found["repeats"] + frame["repeats"])


def write_measurements(frame: pd.DataFrame, path: Path) -> None:
    """Write measurements of trials that did not stop as ``lplgrad measurements`` does."""
    frame.rename(columns={"repeats": "stopped"}).assign(stopped=False).to_csv(path, index=False)


def without(frame: pd.DataFrame, condition: str) -> pd.DataFrame:
    return frame.query(f"not ({condition})")


TWO = (("small", "digits"), ("large", "digits"))


BROKEN: dict[str, Callable[[], pd.DataFrame]] = {
    "as it should be": study,
    "one seed": lambda: study(seeds=1),
    "two seeds": lambda: study(seeds=2),
    "one round": lambda: study(rounds=1),
    "two rounds": lambda: study(rounds=2),
    "ties everywhere": lambda: study().assign(accuracy=0.5),
    "the same difference": lambda: study().assign(
        accuracy=lambda f: 0.5 + 0.01 * f["round"] + 0.01 * f["seed"] + 0.02 * (f["strategy"] == "lplgrad")
    ),
    "one strategy": lambda: study().query("strategy == 'entropy'"),
    "no reference": lambda: study().query("strategy != 'lplgrad'"),
    "no random": lambda: study().query("strategy != 'random'"),
    "a seed missing": lambda: without(study(), "strategy == 'random' and seed == 2"),
    "no seed in common": lambda: without(study(2), "(strategy == 'random') == (seed == 1)"),
    "unequal rounds": lambda: without(study(), "strategy == 'entropy' and round == 4"),
    "a strategy absent on one": lambda: without(study(panels=TWO), "budget == 'large' and strategy == 'lplgrad'"),
    "stopped": lambda: trained(study(), (study()["round"] == 4) & (study()["seed"] == 1)),
    "a round missing": lambda: study().drop(index=7),
}


def study_of(frame: pd.DataFrame) -> StudyFile:
    values = yaml.safe_load((HOME / "tests" / "tiny.yaml").read_text())
    digits = values["datasets"]["digits"]
    digits["budgets"] = dict.fromkeys(("small", "large"), digits["budgets"]["small"])
    values["run"]["budgets"] = list(frame["budget"].unique())
    return StudyFile(study=read_study([HOME / "config.yaml"], values))
