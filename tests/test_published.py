"""What docs/ publishes of finished studies follows from the measurements beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lplgrad.analysis.measured import read_measurements, read_timings
from lplgrad.report.wording import strategy_title
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile

HOME = Path(__file__).parents[1]
RESULTS = HOME / "docs" / "results"
STUDIES = {
    "reduced_jpeg": ["reduced", "cifar10_jpeg"],
    "strategies_digits": ["strategies"],
    "strategies_jpeg": ["strategies_cifar10", "cifar10_jpeg"],
}
OF_STRATEGIES = ["strategies_digits", "strategies_jpeg"]
NONE = "\N{EN DASH}"


def study_of(name: str) -> StudyFile:
    files = ["config.yaml", *(f"studies/{file}.yaml" for file in STUDIES[name])]
    return StudyFile(study=read_study([HOME / file for file in files]))


def table(page: Path, first: str) -> dict[str, list[str]]:
    """The rows of a page's table whose first column has this heading, by what stands there."""
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    width = next(len(row) for row in rows if row[0] == first)
    return {row[0]: row[1:] for row in rows if len(row) == width and row[0] != first}


def gain(gains: pd.DataFrame, strategy: str, kind: str, none: str) -> str:
    row = gains[(gains["strategy"] == strategy) & (gains["gain"] == kind)]
    if row.empty:
        return none
    (found,) = row[["difference", "low", "high"]].to_numpy()
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*found).replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize("name", STUDIES)
def test_measurements_are_those_of_the_study(name: str) -> None:
    file = study_of(name)
    run = file.study.run
    dataset = file.study.datasets[run.datasets[0]]
    rounds = dataset.budgets["small"].rounds * len(run.strategies) * len(run.seeds)
    assert len(read_measurements(RESULTS / name / "measurements.csv", file)) == rounds
    assert len(read_timings(RESULTS / name / "timings.csv", file)) == rounds


@pytest.mark.parametrize("name", STUDIES)
def test_statistics_follow_from_measurements(
    name: str, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]
) -> None:
    study, made = tmp_path / "study.yaml", tmp_path / "statistics"
    study.write_text(study_of(name).model_dump_json())
    measured = RESULTS / name / "measurements.csv"
    assert lplgrad("statistics", "--study", study, "--measurements", measured, "--output", made) == (0, "")
    compared = [path.name for path in (RESULTS / name).glob("*.csv") if (made / path.name).exists()]
    assert "area_differences.csv" in compared
    for file in compared:
        pd.testing.assert_frame_equal(pd.read_csv(RESULTS / name / file), pd.read_csv(made / file), rtol=1e-4)


@pytest.mark.parametrize("name", OF_STRATEGIES)
def test_the_table_of_strategies(name: str) -> None:
    """A cost is the median training of the recipe plus the median queries, over the median plain training."""
    file, folder = study_of(name), RESULTS / name
    areas = pd.read_csv(folder / "area_summary.csv").set_index("strategy")
    rounds = pd.read_csv(folder / "rounds.csv")
    last = rounds[rounds["labels"] == rounds["labels"].max()].set_index("strategy")
    beaten = pd.read_csv(folder / "penalties.csv").groupby("baseline")["share"].mean()
    gains = pd.read_csv(folder / "gains.csv")
    seconds = pd.read_csv(folder / "timings.csv").groupby(["strategy", "recipe", "seed"]).sum(numeric_only=True)
    training = seconds.groupby("recipe")["train_seconds"].median()
    queries = seconds.groupby("strategy")["query_seconds"].median()
    expected = {}
    for strategy in file.study.run.strategies:
        recipe = file.study.strategies[strategy].recipe
        cost = (training[recipe] + queries[strategy]) / training["plain"]
        expected[strategy_title(file, strategy)] = [
            *("{:.1f} ± {:.1f}".format(*frame.loc[strategy, ["mean", "std"]]) for frame in (areas, last)),
            gain(gains, strategy, "total", NONE),
            gain(gains, strategy, "query", NONE),
            f"{beaten[strategy]:.2f}",
            f"{cost:.1f}" if cost < 9.95 else f"{cost:.0f}",
        ]
    assert table(folder / "README.md", "strategy") == expected


def test_the_table_of_the_reduced_study() -> None:
    file, folder = study_of("reduced_jpeg"), RESULTS / "reduced_jpeg"
    accuracy = pd.read_csv(folder / "accuracy.csv")
    expected = {
        f"{labels:,}": [f"{row['mean']:.1f} ± {row['std']:.1f}" for row in part.to_dict("records")]
        for labels, part in ((int(str(key)), part) for key, part in accuracy.groupby("labels", sort=False))
    }
    assert table(folder / "README.md", "labels") == expected
    titles = [strategy_title(file, name) for name in accuracy["strategy"].unique()]
    assert f"| labels | {' | '.join(titles)} |" in (folder / "README.md").read_text()


def test_the_table_that_helps_to_choose() -> None:
    """A row names the acquisition function and, unless that is clear, what the recipe trains."""
    digits, cifar10 = (study_of(name).study for name in OF_STRATEGIES)
    gains, others = (pd.read_csv(RESULTS / name / "gains.csv") for name in OF_STRATEGIES)
    page = (HOME / "docs" / "strategies.md").read_text()
    rows = re.findall(r"^\| (`.+?) \| (.+?) \| (.*?) \| (.*?) \|$", page.partition("## Measured here")[2], re.MULTILINE)
    seen = []
    for named, total, query, other in rows:
        acquisition, *recipe = re.findall(r"`(\w+)`", named)
        fits = [
            strategy
            for strategy in digits.run.strategies
            if (row := digits.strategies[strategy]).acquisition == acquisition
            and digits.recipes[row.recipe].trains in (recipe or ["plain", acquisition])
        ]
        assert len(fits) == 1, named
        seen += fits
        assert [total, query] == [gain(gains, fits[0], kind, "") for kind in ("total", "query")], named
        assert other == (gain(others, fits[0], "total", "") if fits[0] in cifar10.run.strategies else ""), named
    assert sorted([*seen, "random"]) == sorted(digits.run.strategies)
