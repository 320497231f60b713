"""Where the files of a study lie, and the settings of its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study
from lplgrad.study.validation import parse_settings, words
from tests.study.configurations import write


def layout_of(base: Path) -> Layout:
    return Layout(read_study([base]))


def test_trials_and_rounds(base: Path) -> None:
    layout = layout_of(base)
    assert [(trial.strategy, trial.seed) for trial in layout.trials()] == [
        ("lplgrad", 1), ("lplgrad", 2), ("random", 1), ("random", 2),
    ]  # fmt: skip
    assert layout.rounds("low", "digits") == 5
    assert layout.recipes() == ["joint", "plain"]


def test_round_1_is_shared_and_labels_come_from_the_query_before(base: Path) -> None:
    layout, trial = layout_of(base), Trial("low", "digits", "lplgrad", 2)
    assert layout.trained(trial, 1) == "results/base/low/digits/start/seed2/joint"
    assert layout.trained(trial, 2) == "results/base/low/digits/lplgrad/seed2/round2"
    assert layout.labels(trial, 1) == "results/base/low/digits/start/seed2/labeled.csv"
    assert layout.labels(trial, 3) == "results/base/low/digits/lplgrad/seed2/round2/next_labeled.csv"


def test_settings_of_jobs_keep_every_letter(base: Path, tmp_path: Path) -> None:
    """JSON's own escapes for these letters are two halves of a letter to YAML."""
    title = "a 🐱, 𠮷, 猫, \x85, \u2028, ' and \" = {} <"
    study = read_study([base, write(tmp_path, "emoji.yaml", {"title": title})])
    assert parse_settings(Study, words(Layout(study).study_settings())).title == title


def test_a_study_without_what_it_does_not_run(base: Path, tmp_path: Path) -> None:
    over = write(tmp_path, "over.yaml", {"run": {"strategies": ["random"]}})
    settings = Layout(read_study([base, over])).study_settings()
    assert list(settings["strategies"]) == ["random"]
    assert list(settings["recipes"]) == ["plain"]
    assert Study.model_validate(settings).run.strategies == ["random"]


def test_highlighting_is_no_setting_of_the_study(base: Path, tmp_path: Path) -> None:
    """Nothing but figures depends on it, so it is not in the file that all results depend on."""
    study = read_study([base, write(tmp_path, "over.yaml", {"highlight": ["random"]})])
    assert study.highlight == ["random"]
    assert study.model_dump()["highlight"] == ["random"]
    assert Layout(study).study_settings() == Layout(read_study([base])).study_settings()
    assert "highlight" not in read_study([base]).model_dump(), "study.yaml is what it was before there was this key"


def paper() -> Study:
    return read_study([Path(__file__).parents[2] / "config.yaml"])


class TestShownModels:
    def test_those_of_the_paper(self) -> None:
        layout = Layout(paper())
        assert layout.shown_models() == {Trial("high", "cifar10", "lplgrad", 1): [2, 4, 6, 8]}
        kept = layout.kept_checkpoints()
        assert "high/cifar10/lplgrad/seed1/round(?:2|4|6|8)/" in kept

    def test_what_is_gone_must_be_trained_again_and_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        layout = Layout(paper())
        (trial,) = layout.shown_models()
        assert layout.gone_models() == {}, "nothing has run"
        for number in range(1, 11):
            folder = Path(layout.trained(trial, number))
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text("{}")
            if number in (1, 4, 6, 10):
                (folder / "checkpoint.safetensors").write_text("")
        assert layout.gone_models() == {trial: list(range(2, 11))}
        for number in (2, 4):
            Path(layout.round(trial, number)).mkdir(parents=True, exist_ok=True)
            Path(layout.round(trial, number), "features.npy").write_text("")
        assert layout.gone_models() == {trial: list(range(7, 11))}
        Path(layout.round(trial, 8), "features.npy").write_text("")
        assert layout.gone_models() == {}
