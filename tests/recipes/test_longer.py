"""A longer plain training: plain in all but its length, and as long as WAAL."""

from __future__ import annotations

import pytest

from lplgrad.study.settings import RecipeRow, Training
from tests.learners import LABELED, PLAIN, UNLABELED, draws_of, learner_of, run, same, state

TRAINING = Training(epochs=2, batch_size=4, milestones=[])


def longer(**options: object) -> RecipeRow:
    return RecipeRow.model_validate({"trains": "longer", **options})


def steps_of(row: RecipeRow, labeled: int = LABELED) -> int:
    learner = learner_of(row)
    learner.training = TRAINING
    return learner.steps(draws_of(labeled=labeled))


def test_as_long_as_plain_it_is_plain() -> None:
    one, other = learner_of(longer(examples=1)), learner_of(PLAIN)
    assert run(one) == run(other)
    assert same(state(one), state(other))


def test_an_epoch_passes_a_number_of_examples() -> None:
    learner, passed = learner_of(longer(examples=50)), []
    layer = learner.model.get_submodule("conv1")
    layer.register_forward_hook(lambda _, given, made: passed.append(len(given[0])))
    run(learner, TRAINING)
    # Two passes of 21 in mini-batches of 4, the last of each with 1, and a third one up to 13 steps.
    assert passed == ([4, 4, 4, 4, 4, 1] * 2 + [4]) * 2


@pytest.mark.parametrize("labeled", [5, LABELED])
def test_it_takes_as_many_steps_as_waal(labeled: int) -> None:
    assert steps_of(longer(), labeled) == steps_of(RecipeRow(trains="waal"), labeled)
    assert steps_of(longer(), LABELED) == -(-max(LABELED, UNLABELED) // 4)
    assert steps_of(longer(), 5) == -(-(LABELED + UNLABELED - 5) // 4)
