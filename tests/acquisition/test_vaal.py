"""VAAL: its losses by hand, what it finds, and the training of a query's own learner."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lplgrad.acquisition import _vae, vaal
from lplgrad.cli import main
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner
from lplgrad.rounds import training
from lplgrad.rounds.checkpoints import build_learner, first_weights, tensors_of
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.study.settings import BackboneRow
from tests.learners import interrupted, view_of

BACKBONE = BackboneRow(name="small_resnet")


def learner_of(options: vaal.Options) -> Learner:
    learner = build_learner(vaal.Learner, options, BACKBONE, (1, 4, 4), 3)
    return first_weights(learner, BACKBONE, partial(stream, 1))


def draws_of(pool: npt.NDArray[np.uint8], labeled: int, options: vaal.Options) -> Draws:
    images, labels = torch.from_numpy(pool[:labeled].copy()), torch.zeros(labeled, dtype=torch.int64)
    rest = np.arange(labeled, len(pool))
    view = view_of(pool.shape[1:], {})
    return Draws(images, labels, options.batch_size, view, partial(stream, 1), None, pool, rest)


def test_losses_by_hand() -> None:
    assert _vae.divergence(torch.ones(5, 32), torch.zeros(5, 32)).item() == 16
    assert _vae.divergence(torch.zeros(5, 32), torch.zeros(5, 32)).item() == 0
    assert (_vae.against(torch.zeros(4), 1) + _vae.against(torch.zeros(4), 0)).item() == pytest.approx(
        1.38629, abs=1e-5
    )


def test_the_networks_have_the_official_sizes() -> None:
    with torch.device("meta"):
        networks = _vae.VAE((3, 32, 32), 32), _vae.Discriminator(32)
    assert [sum(one.numel() for one in network.parameters()) for network in networks] == [22_835_139, 280_065]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12), (1, 2, 2), (3, 1, 5)])
def test_images_of_any_size_are_decoded_to_their_size(shape: tuple[int, ...]) -> None:
    vae = _vae.VAE(shape, latent=4)
    assert vae(torch.randn(2, *shape))[0].shape == (2, *shape)


def test_each_step_changes_its_own_network() -> None:
    options = vaal.Options(epochs=1, batch_size=8, clock="labeled", vae_steps=1)
    draw = np.random.default_rng(0)
    pool = draw.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    both = learner_of(options)
    list(train(both, draws_of(pool, 8, options), vaal.training(options)))

    class OneSided(vaal.Learner):
        def begin(self, *arguments: Any) -> None:
            super().begin(*arguments)
            self.optimizers[self.idle] = Idle()

        idle = "discriminator"

    class Idle:
        def step(self, rate: float) -> None:
            pass

        def tensors(self) -> dict[str, torch.Tensor]:
            return {}

    for OneSided.idle in ("discriminator", "vae"):
        learner = build_learner(OneSided, options, BACKBONE, (1, 4, 4), 3)
        first_weights(learner, BACKBONE, partial(stream, 1))
        before = {name: tensor.clone() for name, tensor in tensors_of(learner).items()}
        list(train(learner, draws_of(pool, 8, options), vaal.training(options)))
        after = tensors_of(learner)
        for name, tensor in before.items():
            assert torch.equal(after[name], tensor) == name.startswith(f"{OneSided.idle}/"), name
        if (
            OneSided.idle == "discriminator"
        ):  # the autoencoder steps first, so it does the same without the other's step
            assert all(
                torch.equal(after[name], one) for name, one in tensors_of(both).items() if name.startswith("vae/")
            )


def test_it_finds_images_that_differ_from_the_labelled_ones() -> None:
    options = vaal.Options(epochs=60, batch_size=20, clock="labeled", learning_rate=1e-3, latent=8)
    draw = np.random.default_rng(0)
    pool = draw.integers(60, 120, (120, 4, 4, 1), dtype=np.uint8)
    pool[70:] += 60  # half of the unlabelled images are brighter than all labelled ones
    learner = learner_of(options)
    list(train(learner, draws_of(pool, 20, options), vaal.training(options)))
    inputs = draws_of(pool, 20, options).view.plain(torch.from_numpy(pool[20:]))
    logits = predict(learner, [inputs], frozenset({"labeled_logit"}))["labeled_logit"].numpy()
    assert (logits[:50, None] > logits[None, 50:]).mean() > 0.95
    alone = predict(learner, inputs.split(1), frozenset({"labeled_logit"}))["labeled_logit"].numpy()
    np.testing.assert_allclose(alone, logits, atol=1e-5)


def test_a_collapse_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    options = vaal.Options(epochs=20, batch_size=20, clock="labeled", beta=1e4, learning_rate=1e-2, latent=2)
    pool = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    list(train(learner_of(options), draws_of(pool, 20, options), vaal.training(options)))
    assert "this query is close to random" in capsys.readouterr().err


@pytest.fixture(scope="module")
def round_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set, the labels of round 1 and a model."""
    folder = tmp_path_factory.mktemp("vaal")
    data, labeled = str(folder / "data"), str(folder / "labeled.csv")
    settings = ["backbone.name=small_resnet", "backbone.width=4", "training.epochs=1", "training.milestones=[]"]
    given = ["--data", data, "--labeled", labeled, "--round", "1", "--seed", "1"]
    assert main(["prepare", "--settings", "source=digits", "--output", data]) == 0
    assert main(["start", "--data", data, "--query-size", "20", "--seed", "1", "--output", labeled]) == 0
    assert main(["train", *given, "--settings", *settings, "--output", str(folder)]) == 0
    return folder


def query(folder: Path, output: Path) -> int:
    settings = ["acquisition=vaal", "options.epochs=3", "options.batch_size=20", "options.clock=labeled"]
    settings += ["query_size=5", "candidates=40"]
    arguments = [
        "--data",
        str(folder / "data"),
        "--labeled",
        str(folder / "labeled.csv"),
        "--round",
        "1",
        "--seed",
        "1",
    ]
    arguments += ["--checkpoint", str(folder / "checkpoint.safetensors"), "--progress-seconds", "0"]
    return main(["query", *arguments, "--settings", *settings, "--output", str(output)])


def test_a_query_continues_where_it_was_stopped(
    round_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(round_one, tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr(training, "track", interrupted)
        assert query(round_one, tmp_path / "again") == 130
    assert not (tmp_path / "again" / "scores.csv").exists()
    capsys.readouterr()
    assert query(round_one, tmp_path / "again") == 0
    assert "continuing after epoch 2 of 3" in capsys.readouterr().err
    for name in ("scores.csv", "next_labeled.csv", "test_scores.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
