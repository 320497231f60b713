"""Test images that a query scores beside its candidates: which, by what, and that they change nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

from lplgrad import acquisition
from lplgrad.analysis.round_files import read_test_scores
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.errors import UserError
from lplgrad.rounds import checkpoints, needs, pool
from lplgrad.rounds.files import write_test_scores
from tests.conftest import JOINT, replace_array

Call = Callable[..., tuple[int, str]]
Ask = Callable[..., str]
HEADER = "index,score,loss\n"
ALONE = ("entropy", "gradient_norm", "predicted_loss")


@pytest.fixture
def ask(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> Ask:
    """Query a trial of two rounds; returns what the query wrote of test examples."""
    labeled, round1 = tmp_path / "labeled.csv", tmp_path / "round1"
    common = ["--data", data.folder, "--seed", 1]
    lplgrad("start", *common, "--query-size", 6, "--output", labeled)
    lplgrad("train", *common, "--labeled", labeled, "--round", 1, "--settings", JOINT, "--output", round1)

    def query(name: str, number: int = 1, more: str = "", *arguments: object, output: str = "") -> str:
        folder = tmp_path / (output or f"round{number}")
        labels = labeled if number == 1 else tmp_path / f"round{number - 1}" / "next_labeled.csv"
        settings = f"{{acquisition: {name}, query_size: 6, candidates: 30{more}}}"
        status, told = lplgrad(
            "query", *common, "--labeled", labels, "--round", number, "--settings", settings, "--checkpoint",
            tmp_path / f"round{number}/checkpoint.safetensors", "--output", folder, *arguments,
        )  # fmt: skip
        assert status == 0, told
        return (folder / "test_scores.csv").read_text()

    return query


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a test set had more images than are scored."""
    monkeypatch.setattr(pool, "TEST_EXAMPLES", 7)


def test_entropies_and_losses_are_those_of_the_test_logits(ask: Ask, data: DatasetArrays, tmp_path: Path) -> None:
    ask("entropy")
    found = pd.read_csv(tmp_path / "round1" / "test_scores.csv")
    assert found["index"].tolist() == list(range(20))
    logits = np.load(tmp_path / "round1" / "test_logits.npy").astype(np.float64)
    chances = special.softmax(logits, axis=1)
    entropies = stats.entropy(chances, axis=1)
    assert found["score"].to_numpy() == pytest.approx(entropies, rel=1e-4)
    assert np.array_equal(stats.rankdata(found["score"]), stats.rankdata(entropies))
    assert found["loss"].to_numpy() == pytest.approx(-np.log(chances[range(20), data.splits["test"].labels]), rel=1e-4)


def test_gradient_norms_are_those_of_autograd_one_by_one(ask: Ask, data: DatasetArrays, tmp_path: Path) -> None:
    """Of a test image that is normalised and nothing else, though candidates are augmented."""
    ask("gradient_norm", 1, ", query_transform: train, augmentation: {crop_padding: 2, horizontal_flip: true}")
    found = pd.read_csv(tmp_path / "round1" / "test_scores.csv")
    trained = checkpoints.load(tmp_path / "round1" / "checkpoint.safetensors")
    model = trained.learner.model.eval()
    mean, std = trained.about.normalization.mean[0], trained.about.normalization.std[0]
    for index in (0, 7, 19):
        image = torch.tensor((data.splits["test"].inputs[index] / 255 - mean) / std).permute(2, 0, 1).float()
        log_p = model(image[None]).double().log_softmax(dim=1)
        gradients = torch.autograd.grad(-(log_p.exp() * log_p).sum(), list(model.parameters()))
        norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
        assert found["score"][index] == pytest.approx(norm, rel=1e-3)


@pytest.mark.usefixtures("few")
def test_the_same_images_in_every_round_and_for_every_strategy_of_a_seed(
    ask: Ask, data: DatasetArrays, tmp_path: Path, lplgrad: Call
) -> None:
    drawn = {tuple(line.split(",")[0] for line in ask(name).splitlines()[1:]) for name in ALONE}
    arguments = ["--labeled", tmp_path / "round1/next_labeled.csv", "--round", 2, "--settings", JOINT]
    arguments += ["--checkpoint", tmp_path / "round1/checkpoint.safetensors", "--output", tmp_path / "round2"]
    assert lplgrad("train", "--data", data.folder, "--seed", 1, *arguments)[0] == 0
    before = ask("entropy")
    after = ask("entropy", 2)
    assert before != after, "by another model"
    drawn |= {tuple(line.split(",")[0] for line in text.splitlines()[1:]) for text in (before, after)}
    assert drawn == {tuple(map(str, pool.draw_test_examples(20, seed=1)))}
    assert len(*drawn) == 7


@pytest.mark.parametrize("name", ["random", "coreset"])
def test_no_score_of_an_image_alone_leaves_the_header(ask: Ask, name: str) -> None:
    assert ask(name) == HEADER


def test_a_trial_that_has_stopped_scores_nothing(ask: Ask, tmp_path: Path) -> None:
    assert ask("entropy") != HEADER
    metrics = tmp_path / "round1" / "metrics.json"
    accuracy = json.loads(metrics.read_text())["accuracy"]
    assert ask("entropy", 1, "", "--target-accuracy", accuracy, "--metrics", metrics) == HEADER


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ALONE)
def test_test_images_change_nothing_of_the_query(ask: Ask, data: DatasetArrays, tmp_path: Path, name: str) -> None:
    augmented = ", query_transform: train, augmentation: {crop_padding: 2}"
    one = ask(name, 1, augmented, output="one")
    replace_array(data.folder, "test_images", 255 - np.load(data.folder / "test_inputs.npy"))
    replace_array(data.folder, "test_labels", (np.load(data.folder / "test_labels.npy") + 1) % 4)
    assert ask(name, 1, augmented, output="other") != one
    for file in ("scores.csv", "next_labeled.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_a_test_score_that_is_not_finite_ends_no_sound_query(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = ask("entropy", output="sound")
    real = acquisition.scores_of

    def one_broken(*given: object) -> object:
        scores = real(*given)  # type: ignore[arg-type]
        scores[:2] = np.inf, np.nan
        return scores

    monkeypatch.setattr(needs, "scores_of", one_broken)
    first, second, *others = ask("entropy", output="broken").splitlines()[1:]
    assert (first.split(",")[1], second.split(",")[1]) == ("inf", "nan")
    assert others == candidates.splitlines()[3:]
    for file in ("scores.csv", "next_labeled.csv"):
        assert (tmp_path / "sound" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()
    scores, losses = read_test_scores(tmp_path / "broken" / "test_scores.csv", 20)
    assert np.isfinite(scores).sum() == 18
    assert np.isfinite(losses).all()


class TestFile:
    def test_scores_come_back_to_the_bit_and_losses_to_six_digits(self, tmp_path: Path) -> None:
        draw = np.random.default_rng(0)
        scores = (draw.normal(size=400) * 10.0 ** draw.integers(-30, 30, size=400)).astype(np.float32)
        losses = 10.0 ** draw.uniform(-300, 3, size=400)
        write_test_scores(tmp_path / "test_scores.csv", np.arange(400), scores, losses)
        found = read_test_scores(tmp_path / "test_scores.csv", 400)
        assert np.array_equal(found[0].astype(np.float32), scores)
        assert found[1] == pytest.approx(losses, rel=1e-5)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "the first line must be index,score,loss"),
            ("index,score,entropy\n", "the first line must be index,score,loss"),
            (HEADER + "1,0.5,0.5\n2,0.5,0.", "cut off within its last line"),
            (HEADER + "1,0.5,0.5\n", "scores of 1 test examples, not of 2"),
            (HEADER, "scores of 0 test examples, not of 2"),
            (HEADER + "1,0.5\n2,0.5,0.5\n", "line 2: expected an index and two numbers"),
            (HEADER + "1,0.5,0.5\n2,,0.5\n", "line 3: expected an index and two numbers"),
            (HEADER + "1,0.5,1_0\n2,0.5,0.5\n", "line 2: expected an index and two numbers"),
        ],
    )
    def test_what_is_truncated_or_foreign_is_refused(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "test_scores.csv"
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            read_test_scores(path, 2)
        assert str(caught.value).startswith(f"{path}: ")
        assert problem in str(caught.value)
