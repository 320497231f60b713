"""Uncertainty herding: weights, width and calibration by hand, and the second network that a query trains."""

import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad import acquisition
from lplgrad.acquisition import uncertainty_herding as herding
from lplgrad.acquisition._points import normalized
from lplgrad.cli import main
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.rounds import training
from lplgrad.rounds.checkpoints import build_learner, first_weights, tensors_of
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.rounds.round import Round
from lplgrad.study.jobs import QueryJob
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import BackboneRow, Training
from lplgrad.study.validation import parse_settings, words
from tests.acquisition.made_up import chosen, given, holds_what_every_choice_must
from tests.learners import interrupted, view_of
from tests.study.configurations import BASE, write

BACKBONE = BackboneRow.model_validate({"name": "small_resnet", "width": 4})
CIRCLE = torch.tensor([0.0, 10, 20, 90, 100, 180]).deg2rad()
CIRCLE = torch.stack([CIRCLE.cos(), CIRCLE.sin()], dim=1)
FAR = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # two labelled examples


def logits_of(uncertainty: Iterable[float]) -> Tensor:
    """Logits of two classes whose probabilities differ by 1 minus an uncertainty."""
    margin = 1 - torch.tensor(list(uncertainty))
    return torch.stack([(1 + margin) / 2, (1 - margin) / 2], dim=1).log()


def test_uncertainties_by_hand() -> None:
    """Also of a prediction that is so certain that 1 - p is 0 in float64."""
    logits = torch.tensor([[0.5, 0.3, 0.2], [1.0, math.exp(-50), 0.0]]).log()
    expected = {
        "margin": [0.8, 2 * math.exp(-50)],
        "least_confidence": [0.5, math.exp(-50)],
        "entropy": [-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)), 51 * math.exp(-50)],
    }
    for kind, values in expected.items():
        for temperature in (1.0, 2.5):
            question = given(torch.eye(2), None, logits=logits.double().clamp(min=-1e4) * temperature)
            assert herding.uncertainties(question, kind, temperature).tolist() == pytest.approx(values, rel=1e-5, abs=0)


def test_the_only_uncertain_candidate_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights 0.1 and a last one of 1: the vector at 180 degrees is picked first, and with equal weights the others."""
    monkeypatch.setattr(herding, "width_of", lambda *_: 0.5)
    far = torch.tensor([[0.0, -1.0]])
    for weights, picks in (([0.1] * 5 + [1], [5]), ([0.5] * 6, [1, 4, 5])):
        question = given(CIRCLE, far, len(picks), logits=logits_of(weights))
        assert chosen("uncertainty_herding", question, temperature=1.0).picks.tolist() == picks


def test_equal_weights_or_no_labels_are_max_herding(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    none = chosen("uncertainty_herding", given(points, None, 20), temperature=1.0).picks
    assert np.array_equal(none, chosen("max_herding", given(points, None, 20)).picks)
    monkeypatch.setattr(herding, "width_of", lambda *_: 1.0)
    equal = given(points, points[:3] + 0.1, 20, logits=torch.zeros(60, 5))
    assert np.array_equal(
        chosen("uncertainty_herding", equal, temperature=1.0).picks, chosen("max_herding", equal).picks
    )


def test_a_small_width_leaves_only_the_uncertainty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herding, "width_of", lambda *_: 1e-4)
    draw = torch.Generator().manual_seed(0)
    uncertainty = torch.rand(50, generator=draw)
    question = given(torch.randn(50, 4, generator=draw), FAR.repeat(1, 2), 12, logits=logits_of(uncertainty.tolist()))
    picks = chosen("uncertainty_herding", question, temperature=1.0).picks
    assert picks.tolist() == uncertainty.argsort(descending=True)[:12].tolist()


def test_the_temperature_divides_the_logits() -> None:
    """Of three candidates that nothing covers, whose entropies are 0.09, 0.69 and 0.92, and 1.24, 0.85 and 1.38 with
    the temperature 10. One minus the margins are 0.04, 0.95 and 0.39."""
    logits = torch.tensor([[4.0, 0, -9, -9], [3.0, 2.9, -30, -30], [9.0, 7, 7, 7]])
    for temperature, kind, expected in (
        (1.0, "margin", [1, 2, 0]),
        (1.0, "entropy", [2, 1, 0]),
        (10.0, "entropy", [2, 0, 1]),
    ):
        question = given(torch.eye(3), -torch.eye(3)[:2], 3, logits=logits)
        question.measured["side:temperature"] = torch.full((3,), temperature)  # type: ignore[index]
        for options in ({}, {"temperature": temperature}):
            scores = chosen("uncertainty_herding", question, uncertainty=kind, **options).scores
            assert scores is not None
            order = np.argsort(-scores, kind="stable")
            assert order.tolist() == expected


def test_the_width_is_the_smallest_distance_of_labels_but_not_smaller_than_between_neighbours() -> None:
    points = normalized(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)))
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(9)
    nearest = distances.amin(dim=1).sort().values
    assert herding.width_of(points, normalized(FAR.repeat(1, 2)[:, :3])) == pytest.approx(2**0.5)
    pair = normalized(torch.tensor([[1.0, 0, 0], [1.0, 1e-3, 0]]))
    assert nearest[1] > 1e-3
    assert herding.width_of(points, pair) == pytest.approx(float(nearest[1]))
    copies = torch.cat([pair[:1], pair[:1], torch.eye(3, dtype=torch.float64)])
    assert herding.width_of(points, copies) == pytest.approx(2**0.5), "copies are no pair"
    assert herding.width_of(points, pair[:1]) == herding.width_of(points, pair[[0, 0]]) == 1.0
    assert herding.width_of(points[[0] * 50], pair) == pytest.approx(1e-3, rel=1e-5), "there are no neighbours"


def test_calibration_by_hand() -> None:
    """Confidences 0.9, 0.8, 0.6 and 0.55, of which the first and the third are right: 0.2125 in two bins."""
    confidence = torch.tensor([0.9, 0.8, 0.6, 0.55], dtype=torch.float64)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    assert herding.calibration_error(logits, torch.tensor([0, 1, 0, 1]), 2) == pytest.approx(0.2125)
    # In bins of a tenth (0.5, 0.6] has |0.6 - 1 + 0.55| / 4 = 0.0375, and the others 0.1 / 4 and 0.8 / 4.
    assert herding.calibration_error(logits, torch.tensor([0, 1, 0, 1]), 10) == pytest.approx(0.2625)


def test_the_temperature_undoes_a_scale_of_the_logits() -> None:
    """Labels drawn from a softmax whose logits are then scaled by 3. Too modest logits keep 1."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(8_000, 3, generator=draw) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draw)[:, 0]
    temperature, error = herding.calibrated(3 * logits, labels)
    assert temperature == pytest.approx(3, abs=0.3)
    errors = [herding.calibration_error((3 * logits).double() / temperature, labels, bins) for bins in (3, 15)]
    assert error == pytest.approx(errors[0])
    assert error != pytest.approx(errors[1], rel=0.1), "as many bins as classes"
    assert error < herding.calibration_error((3 * logits).double(), labels, 3)
    assert herding.calibrated(logits / 3, labels)[0] == 1.0
    assert herding.calibrated(torch.zeros(6, 3), torch.arange(6) % 3)[0] == 1.0, "the first of equal ones"


def test_of_each_class_three_tenths_are_held_out_at_random() -> None:
    labels = torch.arange(100) % 4
    splits = [herding.held_out(labels, torch.Generator().manual_seed(seed)) for seed in range(400)]
    for split in splits:
        assert int(split.sum()) == herding.held_out_count(100) == 30
        assert ((labels[split].bincount() - 7.5).abs() < 1).all()
    share = torch.stack(splits).double().mean(dim=0)
    assert (share - 0.3).abs().max() < 5 * (0.21 / 400) ** 0.5
    for count in range(40):
        assert int(herding.held_out(labels[:count], torch.Generator()).sum()) == herding.held_out_count(count)


def test_degenerate_queries(capsys: pytest.CaptureFixture[str]) -> None:
    holds_what_every_choice_must("uncertainty_herding")
    holds_what_every_choice_must("uncertainty_herding", temperature=2.0, uncertainty="entropy")


def draws_of(count: int, batch_size: int = 8, classes: int = 3) -> Draws:
    """Images whose class is their brightness; the last is without a label."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % classes
    pool = (draw.integers(0, 60, (count + 1, 4, 4, 1)) + 60 * np.append(labels, 0)[:, None, None, None]).astype(
        np.uint8
    )
    where = np.arange(count)
    stored, known = torch.from_numpy(pool[:count].copy()), torch.from_numpy(labels)
    view = view_of((4, 4, 1), {})
    return Draws(stored, known, batch_size, view, partial(stream, 1), None, pool, np.array([count]), where)


def learner_of() -> herding.Learner:
    learner = build_learner(herding.Learner, herding.Options(), BACKBONE, (1, 4, 4), 3)
    assert isinstance(learner, herding.Learner)
    first_weights(learner, BACKBONE, partial(stream, 1))
    return learner


SETTINGS = Training(epochs=4, batch_size=8, milestones=[])


def test_it_trains_on_examples_that_are_not_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them once an epoch, in an order of the epoch's own; all others calibrate."""
    draws, learner = draws_of(47), learner_of()
    seen: list[Any] = []
    outputs: list[Tensor] = []
    original = draws.pool

    def pool(where: Any, augmented: bool = False) -> Tensor:
        seen.append((where, augmented))
        return original(where, augmented)

    calibrated = herding.calibrated

    def recorded(logits: Tensor, labels: Tensor) -> tuple[float, float]:
        outputs.append(logits)
        return calibrated(logits, labels)

    monkeypatch.setattr(draws, "pool", pool)
    monkeypatch.setattr(herding, "calibrated", recorded)
    list(train(learner, draws, SETTINGS))
    trained = [where for where, augmented in seen if augmented]
    held_out = np.concatenate([where for where, augmented in seen if not augmented])
    assert [len(part) for part in trained] == [7, 7, 7, 6, 6] * 4
    epochs = np.concatenate(trained).reshape(4, 33)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    for epoch in epochs:
        assert sorted([*epoch, *held_out]) == list(range(47))
    with torch.no_grad():
        torch.testing.assert_close(outputs, [learner.model.eval()(original(held_out))])
    assert 1 <= float(learner.state["temperature"]) < 20
    found = predict(learner, [torch.zeros(5, 1, 4, 4)], frozenset({"temperature"}))["temperature"]
    assert found.tolist() == [float(learner.state["temperature"])] * 5


@pytest.mark.parametrize(("count", "classes"), [(19, 3), (40, 1)])
def test_too_few_examples_or_one_class_leave_the_temperature_1(
    count: int, classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """19 examples hold out 5, and three classes need 6. Then a single step is taken, since there is nothing to find."""
    learner = learner_of()
    epochs = list(train(learner, draws_of(count, classes=classes), SETTINGS))
    assert len(epochs) == (1 if count == 19 else 4)
    assert float(learner.state["temperature"]) == 1.0
    assert "the temperature is 1: too few examples are held out" in capsys.readouterr().err


def test_the_same_split_and_weights_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state between two epochs is all that a training continues from."""
    whole, stopped = learner_of(), learner_of()
    list(train(whole, draws_of(47), SETTINGS))
    draws = draws_of(47)
    states: list[Any] = []
    steps = train(stopped, draws, SETTINGS, begin=states.append)
    next(steps)
    next(steps)
    kept = {name: tensor.clone() for name, tensor in stopped.state.items()}
    again = draws_of(47)
    for name, generator in draws.streams.items():
        again.stream(name).bit_generator.state = generator.bit_generator.state
    tensors = stopped.optimizers["model"].tensors()

    def restore(state: Any) -> None:
        state.epoch, state.last = 2, states[0].last
        for name, tensor in state.learner.optimizers["model"].tensors().items():
            tensor.copy_(tensors[name])
        for name, tensor in state.learner.state.items():
            tensor.copy_(kept[name])

    list(train(stopped, again, SETTINGS, begin=restore))
    for name, tensor in tensors_of(whole).items():
        assert torch.equal(tensor, tensors_of(stopped)[name]), name


def test_a_given_temperature_trains_nothing() -> None:
    function = acquisition.registry.load("uncertainty_herding")
    assert function.trains_as_round(herding.Options())
    assert not function.trains_as_round(herding.Options(temperature=2.0))
    vaal = acquisition.registry.load("vaal")
    assert acquisition.side_outputs(vaal.needs(vaal.options())) == {"labeled_logit"}
    assert not vaal.trains_as_round(vaal.options())


def test_the_layout_gives_the_settings_of_the_training(tmp_path: Path) -> None:
    rows = {"herding": {}, "fixed": {"temperature": 2.0}}
    given = {name: {"recipe": "plain", "acquisition": "uncertainty_herding", **row} for name, row in rows.items()}
    strategies = {**given, "vaal": {"recipe": "plain", "acquisition": "vaal"}}
    over = {"strategies": strategies, "run": {"strategies": list(strategies)}}
    layout = Layout(read_study([write(tmp_path, "base.yaml", BASE), write(tmp_path, "over.yaml", over)]))
    found = {name: layout.query_settings("low", "digits", name) for name in strategies}
    assert found["herding"]["training"] == layout.training_settings("digits", "plain")["training"]
    assert "training" not in found["fixed"]
    assert "training" not in found["vaal"]
    assert parse_settings(QueryJob, words(found["herding"])).training == layout.study.datasets["digits"].training


def test_only_this_query_has_settings_of_a_training() -> None:
    plain = QueryJob(acquisition="entropy", query_size=2)
    assert "training" not in plain.model_dump(by_alias=True)
    assert "training" not in json.loads(plain.model_dump_json())
    asked = QueryJob(acquisition="uncertainty_herding", query_size=2, training=SETTINGS)
    assert QueryJob.model_validate(asked.model_dump(by_alias=True)) == asked
    assert asked.model_dump()["training"]["epochs"] == 4


@pytest.fixture(scope="module")
def round_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set, the labels of round 1 and a model."""
    folder = tmp_path_factory.mktemp("herding")
    data, labeled = str(folder / "data"), str(folder / "labeled.csv")
    assert main(["prepare", "--settings", "source=digits", "--output", data]) == 0
    assert main(["start", "--data", data, "--query-size", "90", "--seed", "1", "--output", labeled]) == 0
    given = ["--data", data, "--labeled", labeled, "--round", "1", "--seed", "1"]
    settings = ["backbone.name=small_resnet", "backbone.width=4", "training.epochs=1", "training.milestones=[]"]
    assert main(["train", *given, "--settings", *settings, "--output", str(folder)]) == 0
    return folder


def query(folder: Path, output: Path, *settings: str) -> int:
    arguments = ["--data", str(folder / "data"), "--labeled", str(folder / "labeled.csv"), "--round", "1"]
    arguments += ["--seed", "1", "--checkpoint", str(folder / "checkpoint.safetensors"), "--progress-seconds", "0"]
    settings = ("acquisition=uncertainty_herding", "query_size=5", "candidates=60", *settings)
    return main(["query", *arguments, "--settings", *settings, "--output", str(output)])


TRAINING = ("training.epochs=3", "training.milestones=[]", "training.batch_size=20")


def test_the_second_network_shares_no_random_stream_with_the_round(
    round_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would start from the weights of the round's own model, and take the same mini-batches."""
    asked: list[str] = []
    stream_of = Round.stream

    def recorded(here: Round[Any], purpose: Purpose | str) -> np.random.Generator:
        asked.append(f"{purpose}")
        return stream_of(here, purpose)

    monkeypatch.setattr(Round, "stream", recorded)
    assert query(round_one, tmp_path, *TRAINING) == 0
    assert {f"side {Purpose.MODEL_WEIGHTS}", "side pool augmenting"} <= set(asked)
    assert {one for one in asked if not one.startswith("side ")} == {f"{Purpose.QUERY_AUGMENTATION}"}


def test_a_query_trains_a_second_network_and_continues_where_it_was_stopped(
    round_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(round_one, tmp_path / "whole", *TRAINING) == 0
    log = capsys.readouterr().err
    assert "epoch 3/3" in log
    assert "with it the calibration error is" in log
    with monkeypatch.context() as patched:
        patched.setattr(training, "track", interrupted)
        assert query(round_one, tmp_path / "again", *TRAINING) == 130
    assert query(round_one, tmp_path / "again", *TRAINING) == 0
    assert "continuing after epoch 2 of 3" in capsys.readouterr().err
    for name in ("scores.csv", "next_labeled.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    settings = json.loads((tmp_path / "whole" / "query_settings.json").read_text())
    assert settings["settings"]["training"]["epochs"] == 3


def test_a_query_with_a_given_temperature_trains_nothing(
    round_one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(round_one, tmp_path, "options.temperature=2.0") == 0
    assert "epoch" not in capsys.readouterr().err
    assert "training" not in json.loads((tmp_path / "query_settings.json").read_text())["settings"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "training: is missing: the query trains a network"),
        (("options.temperature=2.0", *TRAINING), "training: has no effect"),
    ],
)
def test_settings_of_a_training_that_are_missing_or_idle_are_refused(
    round_one: Path, tmp_path: Path, settings: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(round_one, tmp_path, *settings) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "scores.csv").exists()
