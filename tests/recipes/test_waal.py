"""WAAL: its terms by hand, who is trained by which step, and its ranking."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lplgrad.acquisition import Candidates, choice_of
from lplgrad.acquisition import waal as query
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner, waal
from lplgrad.rounds.checkpoints import build, first_weights, tensors_of
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.loop import train
from lplgrad.rounds.optimizers import SGD
from lplgrad.study.settings import BackboneRow, RecipeRow, Training
from tests.learners import view_of

BACKBONE = BackboneRow.model_validate({"name": "small_resnet", "width": 4})
TRAINING = Training(epochs=2, batch_size=10, learning_rate=0.05, milestones=[])


def learner_of(**options: object) -> Learner:
    learner = build(BACKBONE, RecipeRow.model_validate({"trains": "waal", **options}), (1, 8, 8), 3)
    return first_weights(learner, BACKBONE, partial(stream, 1))


def draws() -> Draws:
    draw = np.random.default_rng(0)
    pool = draw.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    images, labels = torch.from_numpy(pool[:20].copy()), torch.from_numpy(draw.integers(0, 3, 20))
    view = view_of(augmentation={"crop_padding": 1})
    return Draws(images, labels, 10, view, partial(stream, 1), 10, pool, np.arange(20, 50))


def test_the_weight_of_labelled_examples() -> None:
    assert waal.labeled_weight(2000, 48000, 2000) == pytest.approx(0.47917, abs=5e-6)
    assert waal.labeled_weight(1000, 49000, 1000) == pytest.approx(0.48980, abs=5e-6)
    assert waal.labeled_weight(1000, 49000, 0) == 1
    assert waal.labeled_weight(60, 40, 60) == 0, "a query cannot buy more than there is"


def test_certainty_by_hand() -> None:
    uniform = query.certainty(torch.zeros(1, 10)).item()
    assert uniform == pytest.approx(15.1536, abs=5e-5)
    others = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 3
    assert query.certainty(others).min() > uniform
    assert torch.isfinite(query.certainty(torch.tensor([[1e4, 0.0]]))).all()


def test_the_penalty_lowers_a_steep_critic() -> None:
    line = nn.Linear(2, 1, bias=False)
    line.weight.data = torch.tensor([[2.0, 0.0]])
    critic = nn.Sequential(line, nn.Flatten(0))
    penalty = waal.gradient_penalty(critic, torch.randn(4, 2), torch.randn(6, 2))
    assert penalty.item() == pytest.approx(1)
    torch.autograd.backward(penalty)
    SGD(critic.parameters()).step(0.1)
    assert line.weight.norm() < 2


def test_equal_batches_are_not_apart() -> None:
    critic = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    features = torch.randn(5, 3)
    assert waal.distance(critic, features, features, 1.0).item() == 0


def test_each_step_changes_its_own_network() -> None:
    learner, other = learner_of(critic_learning_rate=1e-30), learner_of(trade_off=0)
    before = {name: tensor.clone() for name, tensor in tensors_of(learner).items()}
    list(train(learner, draws(), TRAINING))
    for name, tensor in tensors_of(learner).items():
        assert torch.equal(tensor, before[name]) == name.startswith("critic/"), name
    list(train(other, draws(), TRAINING))
    plain = first_weights(build(BACKBONE, RecipeRow(trains="plain"), (1, 8, 8), 3), BACKBONE, partial(stream, 1))
    longer = learner_of(trade_off=0, clock="labeled")
    list(train(longer, draws(), TRAINING))
    list(train(plain, draws(), TRAINING))
    # Without the distance the network trains as it does alone: unlabelled examples leave no trace in it.
    found = tensors_of(longer)
    for name, tensor in tensors_of(plain).items():
        torch.testing.assert_close(found[name], tensor, msg=name)
    assert not torch.equal(found["critic/0.weight"], before["critic/0.weight"])


def test_an_epoch_is_as_long_as_its_clock_says() -> None:
    for clock, steps in (("pool", 3), ("labeled", 2)):
        learner, drawn = learner_of(clock=clock), draws()
        learner.training = TRAINING
        assert learner.steps(drawn) == steps


def test_the_critic_and_then_flat_predictions_come_first() -> None:
    logits = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.5, 0.0], [3.0, 0.0]])
    measured = {"logits": logits, "critic": torch.tensor([0.0, 1.0, 0.0, 0.0])}
    chosen = choice_of(query.ACQUISITION, Candidates(np.arange(4), 1, 1, 2, measured), query.Options())
    assert chosen.picks.tolist() == [1, 2]


def test_without_unlabelled_examples_the_network_trains_alone() -> None:
    some = draws()
    some.unlabeled_count, some.unlabeled_positions = 0, some.unlabeled_positions[:0]
    learner = learner_of()
    before = tensors_of(learner)["critic/0.weight"].clone()
    epochs = list(train(learner, some, TRAINING))
    assert all(np.isfinite(list(epoch.means.values())).all() for epoch in epochs)
    assert torch.equal(tensors_of(learner)["critic/0.weight"], before)
