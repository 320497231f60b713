"""What every recipe must do, whatever it trains. A recipe that needs options of its own to run has them in OPTIONS."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad import backbones, recipes
from lplgrad.acquisition import Slope
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import load, tensors_of, to_device
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.files import PROGRESS
from lplgrad.rounds.loop import Epoch, train
from lplgrad.rounds.needs import gradient_norms
from lplgrad.rounds.optimizers import optimizer_of
from lplgrad.rounds.resume import Progress
from lplgrad.study.settings import BackboneRow, RecipeRow, Training
from tests.conftest import CLASSES
from tests.learners import CPU, IMAGES, LABELED, draws_of, learner_of, run, same, saved, state

# Options with which a recipe is tried, beside its defaults
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "joint": [{"detach_after": 0.0, "auxiliary_schedule": "constant"}],
    "nce_net": [{"prototypes": 2}],
    "verips": [
        {"threshold": 5.0},
        {"threshold": 5.0, "clock": "labeled", "most": 5},
        {"threshold": 5.0, "verifier": False, "keep": False},
    ],
}
CASES = [
    pytest.param(RecipeRow.model_validate({"trains": name, **options}), id=f"{name} {options or ''}".strip())
    for name in recipes.registry.names()
    for options in ({}, *OPTIONS.get(name, []))
]
# With dropout, so that it offers all that a recipe may want, and draws within a step
BACKBONE = BackboneRow.model_validate({"name": "small_resnet", "width": 4, "dropout": 0.3})
TRAINING = Training(epochs=3, batch_size=8, learning_rate=0.02, milestones=[2])
pytestmark = pytest.mark.parametrize("row", CASES)


def offered(row: RecipeRow) -> frozenset[str]:
    """What acquisition functions can need of a recipe with the backbone."""
    of_backbone = backbones.registry.load(BACKBONE.name).offers(BACKBONE.checked_options)
    return recipes.registry.load(row.trains).offered(row.checked_options, of_backbone)


def previous_of(row: RecipeRow) -> Learner:
    """The learner of the round before."""
    previous = learner_of(row, BACKBONE)
    run(previous, Training(epochs=1, batch_size=8, milestones=[]))
    return to_device(previous, CPU)


def fresh(row: RecipeRow) -> Learner:
    """A learner that is about to train in round 2, as a new process would make it."""
    learner = learner_of(row, BACKBONE, round_number=2)
    if recipes.registry.load(row.trains).reads_previous(row.checked_options):
        learner.previous = previous_of(row)
    return learner


def epochs_of(learner: Learner, progress: Progress | None = None, training: Training = TRAINING) -> Iterator[Epoch]:
    begun = progress.attach if progress else lambda state: None
    draws = draws_of(batch_size=training.batch_size, stream_of=partial(stream, 1, round_number=2))
    epochs = train(learner, draws, training, begin=begun)
    return progress.keep(epochs) if progress else epochs


def trained(row: RecipeRow) -> Learner:
    learner = fresh(row)
    list(epochs_of(learner))
    return learner


def test_its_row_comes_back(row: RecipeRow) -> None:
    assert RecipeRow.model_validate(row.model_dump(by_alias=True)) == row


def test_what_it_extends_is_a_recipe(row: RecipeRow) -> None:
    assert recipes.registry.load(row.trains).extends in {"", *recipes.registry.names()}


def test_a_training_learns_and_reports_its_loss(row: RecipeRow) -> None:
    learner, before = fresh(row), state(fresh(row))
    epochs = list(epochs_of(learner, training=Training(epochs=12, batch_size=8, learning_rate=0.05, milestones=[])))
    assert all("loss" in epoch.means for epoch in epochs)
    assert all(np.isfinite(list(epoch.means.values())).all() for epoch in epochs)
    assert epochs[-1].means["loss"] < epochs[0].means["loss"]
    after = state(learner)
    for name in learner.networks:
        assert any(not torch.equal(after[key], before[key]) for key in before if key.startswith(f"{name}/"))
    assert all(tensor.grad is None for network in learner.networks.values() for tensor in network.parameters())


def test_two_runs_give_the_same_bytes(row: RecipeRow) -> None:
    one, two = fresh(row), fresh(row)
    assert list(epochs_of(one)) == list(epochs_of(two))
    assert same(state(one), state(two))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_run_equals_an_undisturbed_one(row: RecipeRow, epoch: int, tmp_path: Path) -> None:
    undisturbed = fresh(row)
    records = list(epochs_of(undisturbed))
    list(islice(epochs_of(fresh(row), Progress(tmp_path / PROGRESS, "same", seconds=0)), epoch + 1))
    resumed = fresh(row)
    assert list(epochs_of(resumed, Progress(tmp_path / PROGRESS, "same", seconds=0))) == records[epoch:]
    assert same(state(undisturbed), state(resumed))


def test_the_global_generators_are_untouched(row: RecipeRow) -> None:
    legacy: Any = np.random
    torch.manual_seed(3)
    legacy.seed(3)
    random.seed(3)
    before = torch.random.get_rng_state(), legacy.get_state()[1].copy(), random.getstate()
    one = trained(row)
    predict(one, [torch.randn(0, 1, 8, 8)])
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], legacy.get_state()[1])
    assert before[2] == random.getstate()
    torch.manual_seed(4)
    legacy.seed(4)
    random.seed(4)
    assert same(state(trained(row)), state(one)), "nor is any read"


def test_labels_of_unlabelled_examples_are_never_read(row: RecipeRow) -> None:
    """Other labels, and even images of other classes, change nothing unless the images themselves are drawn."""
    one, other = fresh(row), fresh(row)
    list(epochs_of(one))
    labels = IMAGES.labels.copy()
    labels[LABELED:] = -7
    images = replace(IMAGES, labels=labels)
    list(train(other, draws_of(images, stream_of=partial(stream, 1, round_number=2)), TRAINING))
    assert same(state(one), state(other))


def test_a_training_leaves_the_round_before_alone(row: RecipeRow) -> None:
    learner = fresh(row)
    if learner.previous is None:
        return
    before = state(learner.previous)
    list(epochs_of(learner))
    assert same(state(learner.previous), before)
    assert all(tensor.grad is None for one in learner.previous.networks.values() for tensor in one.parameters())


def test_every_step_counts_the_epochs_examples(row: RecipeRow) -> None:
    learner = fresh(row)
    learner.begin(TRAINING, lambda network: optimizer_of(TRAINING, network.parameters()), torch.enable_grad)
    draws = draws_of()
    steps = []
    for epoch in range(TRAINING.epochs):
        draws.begin_epoch(epoch)
        steps.append(learner.steps(draws))
    assert all(type(count) is int and count >= 0 for count in steps)
    assert steps[0] > 0


def test_a_last_batch_of_one_trains(row: RecipeRow) -> None:
    learner = fresh(row)
    training = Training(epochs=2, batch_size=LABELED - 1, milestones=[], learning_rate=0.01)
    assert all(np.isfinite(list(epoch.means.values())).all() for epoch in epochs_of(learner, training=training))


def test_bfloat16_leaves_float32_weights(row: RecipeRow) -> None:
    learner = fresh(row)
    list(train(learner, draws_of(), TRAINING, "bfloat16"))
    assert all(tensor.dtype != torch.bfloat16 and tensor.isfinite().all() for tensor in state(learner).values())


def test_a_checkpoint_comes_back_and_predicts_the_same(row: RecipeRow, tmp_path: Path) -> None:
    learner, images = trained(row), torch.randn(6, 1, 8, 8)
    checkpoint = load(saved(tmp_path / "c", learner, BACKBONE, row))
    assert (checkpoint.about.recipe, checkpoint.offered) == (row, offered(row))
    found = to_device(checkpoint.learner, CPU)
    assert same(state(found), state(learner))
    wanted = outputs_of(row)
    again = to_device(load(tmp_path / "c").learner, CPU)
    expected, one, other = (predict(each, [images], wanted) for each in (learner, found, again))
    for name in wanted:
        assert torch.equal(one[name], other[name])
        assert torch.equal(one[name], expected[name])


def test_a_warm_round_trains_on(row: RecipeRow) -> None:
    """The learner of a checkpoint trains as one that was never written."""
    one, other = trained(row), trained(row)
    warm = learner_of(row, BACKBONE, round_number=2)
    for name, tensor in tensors_of(warm).items():
        if name in tensors_of(other):
            tensor.copy_(tensors_of(other)[name])
    warm.state = {name: tensor.clone() for name, tensor in other.state.items()}
    warm.previous = other.previous if one.previous is not None else None
    for learner in (one, warm):
        list(epochs_of(learner))
    assert same(state(one), state(warm))


def outputs_of(row: RecipeRow) -> frozenset[str]:
    """The outputs of ``predict`` that a recipe offers."""
    return offered(row) - {"gradient_norms", "stochastic_logits", "linear_head"}


def test_it_offers_logits_and_features_with_a_row_for_each_example(row: RecipeRow) -> None:
    learner, images = trained(row), torch.randn(7, 1, 8, 8)
    assert {"logits", "features"} <= offered(row)
    together = predict(learner, [images], outputs_of(row))
    assert together.keys() == outputs_of(row)
    assert together["logits"].shape == (7, CLASSES)
    apart = predict(learner, images.split(3), outputs_of(row))
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    moved = predict(learner, [images[order]], outputs_of(row))
    for name, values in together.items():
        assert len(values) == 7, name
        assert values.isfinite().all()
        torch.testing.assert_close(apart[name], values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moved[name], values[order], rtol=1e-4, atol=1e-5)


def test_a_linear_head_makes_logits_that_are_linear_in_the_features(row: RecipeRow) -> None:
    """More examples than weights, so that a linear function fits other logits badly."""
    if "linear_head" not in offered(row):
        return
    found = predict(trained(row), [torch.randn(200, 1, 8, 8)], frozenset({"logits", "features"}))
    features, logits = found["features"].double(), found["logits"].double()
    assert features.shape[1] < 100
    inputs = torch.cat([features, torch.ones(200, 1)], dim=1)
    weights = torch.linalg.lstsq(inputs, logits, driver="gelsd").solution
    torch.testing.assert_close(inputs @ weights, logits, rtol=1e-4, atol=1e-4)


def test_predicting_changes_nothing(row: RecipeRow) -> None:
    learner = trained(row)
    before = state(learner)
    predict(learner, [torch.randn(7, 1, 8, 8)], outputs_of(row))
    assert same(state(learner), before)


def test_the_reported_prediction_is_that_of_the_reported_module(row: RecipeRow) -> None:
    """Its logits are the ones that are tested; a recipe may report their logarithm, so probabilities are compared."""
    learner, images = trained(row), torch.randn(7, 1, 8, 8)
    found = predict(learner, [images])["logits"]
    with torch.no_grad():
        torch.testing.assert_close(learner.reported(images).softmax(dim=1), found.softmax(dim=1))


def test_gradient_norms_are_those_of_autograd_or_are_not_offered(row: RecipeRow) -> None:
    learner, images = trained(row), torch.randn(4, 1, 8, 8)

    def loss(logits: Tensor) -> Tensor:
        return logits.double().square().sum(dim=1)

    if "gradient_norms" not in offered(row):
        return
    found = gradient_norms(learner, Slope(loss), [images], 3)
    double = copy.deepcopy(learner.reported).double().eval()
    parameters = [parameter for parameter in double.parameters() if parameter.requires_grad]
    for image, norm in zip(images.double(), found.total, strict=True):
        gradients = torch.autograd.grad(loss(double(image[None])).sum(), parameters, allow_unused=True)
        expected = torch.stack([one.norm() for one in gradients if one is not None]).norm()
        assert float(norm) == pytest.approx(float(expected), rel=1e-3)
    with PerSampleGradientNorms(learner.reported) as norms_of:
        torch.testing.assert_close(norms_of(images, loss).output, predict(learner, [images])["logits"])
