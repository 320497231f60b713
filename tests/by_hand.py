"""The commands of a round, called by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import JOINT

Call = Callable[..., tuple[int, str]]


QUERY = "{acquisition: NAME, query_size: 6, candidates: 30}"


def train(
    lplgrad: Call, folder: Path, settings: str, number: int = 1, output: str = "round1", **more: object
) -> tuple[int, str]:
    arguments: list[object] = [
        "train", "--data", folder / "data", "--labeled", more.pop("labeled", folder / "labeled.csv"),
        "--round", number, "--seed", more.pop("seed", 1), "--settings", settings, "--output", folder / output,
    ]  # fmt: skip
    for option, value in more.items():
        arguments += [f"--{option}", *(value if isinstance(value, list) else [value])]
    return lplgrad(*arguments)


def query(lplgrad: Call, folder: Path, settings: str, output: str = "round1", **more: object) -> tuple[int, str]:
    arguments: list[object] = [
        "query", "--data", folder / "data", "--labeled", folder / "labeled.csv", "--round", more.pop("round", 1),
        "--seed", 1, "--settings", settings, "--output", folder / output,
    ]  # fmt: skip
    checkpoint = more.pop("checkpoint", folder / "round1" / "checkpoint.safetensors")
    return lplgrad(*arguments, *(["--checkpoint", checkpoint] if checkpoint else []))


def of_round(number: int, folder: Path) -> Path:
    """The labels of round 1, as if the rounds up to another had bought as many of them each."""
    path = folder / f"labeled{number}.csv"
    head, *rows = (folder / "labeled.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    lines = [f"{index},{1 + k * number // len(rows)},{label}\n" for k, (index, _, label) in enumerate(cells)]
    path.write_text("".join([f"{head}\n", *lines]))
    return path


def first_round(lplgrad: Call, folder: Path) -> Path:
    """Draw the labels of round 1 for the data set ``folder/data``, train on them jointly, and return the folder."""
    labeled = folder / "labeled.csv"
    assert lplgrad("start", "--data", folder / "data", "--query-size", 6, "--seed", 1, "--output", labeled)[0] == 0
    assert train(lplgrad, folder, JOINT)[0] == 0
    return folder
