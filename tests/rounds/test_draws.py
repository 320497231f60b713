"""The examples that training draws: passes over the labelled ones, and the others without their labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.rounds.draws import Draws
from tests.learners import IMAGES, LABELED, UNLABELED, draws_of, view_of

NOTHING: dict[str, Any] = {}
# Every image is one brightness of its own, so that an input says which image it is, whatever the augmentation.
POOL = LABELED + UNLABELED
NUMBERED = Examples(np.tile(np.arange(POOL, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 1)), np.arange(POOL) % 4)


def numbered(augmentation: dict[str, Any] = NOTHING) -> Draws:
    draws = draws_of(NUMBERED, augmentation=augmentation)
    draws.begin_epoch(0)
    return draws


def numbers(inputs: Tensor) -> list[int]:
    """Which images some inputs are, by the brightness of a pixel in the middle."""
    return ((inputs[:, 0, 4, 4] * 0.25 + 0.5) * 255).round().int().tolist()


class TestLabeled:
    def test_a_pass_has_every_labelled_example_once_and_the_next_another_order(self) -> None:
        draws = numbered()
        passes = [[draws.labeled() for _ in range(3)] for _ in range(2)]
        orders = []
        for batches in passes:
            assert [len(inputs) for inputs, _ in batches] == [8, 8, 5]
            orders.append([number for inputs, _ in batches for number in numbers(inputs)])
            assert torch.cat([labels for _, labels in batches]).tolist() == [number % 4 for number in orders[-1]]
            assert sorted(orders[-1]) == list(range(LABELED))
        assert orders[0] != orders[1]

    def test_an_epoch_starts_anew(self) -> None:
        draws = numbered()
        draws.labeled()
        draws.begin_epoch(1)
        assert sorted(number for _ in range(3) for number in numbers(draws.labeled()[0])) == list(range(LABELED))

    def test_every_order_has_streams_of_its_own(self) -> None:
        draws, alone = numbered(), numbered()
        mixed = [numbers(draws.labeled(order)[0]) for order in ("main", "second", "main", "second")]
        assert mixed[0] + mixed[2] != mixed[1] + mixed[3]
        assert [numbers(alone.labeled()[0]) for _ in range(2)] == [mixed[0], mixed[2]], (
            "the other disturbs it in nothing"
        )
        assert set(draws.streams) == {"batches", "augmenting", "second: batches", "second: augmenting"}

    def test_mini_batches_of_other_sizes_share_a_pass(self) -> None:
        draws, alone = numbered(), numbered()
        expected = [number for _ in range(6) for number in numbers(alone.labeled()[0])]
        counts = [1, 13, 9, None, 3, 20]  # 9 are more than are left of the first pass
        batches = [draws.labeled(count=count) for count in counts]
        assert [len(inputs) for inputs, _ in batches] == [1, 13, 7, 8, 3, 10]
        assert [number for inputs, _ in batches for number in numbers(inputs)] == expected
        assert torch.cat([labels for _, labels in batches]).tolist() == [number % 4 for number in expected]

    def test_inputs_are_normalised(self) -> None:
        inputs, _ = numbered().labeled()
        assert inputs.dtype == torch.float32
        expected = view_of().plain(torch.from_numpy(NUMBERED.inputs[numbers(inputs)]))
        assert torch.equal(inputs, expected)


class TestUnlabeled:
    @pytest.mark.parametrize("count", [1, 2, 4, UNLABELED])
    def test_all_come_before_one_comes_again(self, count: int) -> None:
        draws = numbered()
        assert draws.unlabeled_count == UNLABELED
        seen: list[int] = []
        while len(seen) < 3 * UNLABELED:
            inputs = draws.unlabeled(count)
            assert inputs.shape == (count, 1, 8, 8)
            seen += numbers(inputs)
        passes = [seen[start : start + UNLABELED] for start in range(0, 3 * UNLABELED, UNLABELED)]
        assert all(sorted(order) == list(range(LABELED, POOL)) for order in passes), "and none that has a label"
        assert passes[0] != passes[1], "in a new order"

    def test_more_than_there_are_gives_all(self) -> None:
        assert sorted(numbers(numbered().unlabeled(100))) == list(range(LABELED, POOL))

    def test_an_epoch_starts_anew(self) -> None:
        draws = numbered()
        draws.unlabeled(4)
        draws.begin_epoch(1)
        assert sorted(numbers(draws.unlabeled(UNLABELED))) == list(range(LABELED, POOL))

    def test_they_are_augmented_each_time_differently(self) -> None:
        draws = draws_of(augmentation={"crop_padding": 4, "horizontal_flip": True})
        draws.begin_epoch(0)
        one, other = draws.unlabeled(UNLABELED), draws.unlabeled(UNLABELED)
        plain = draws.pool(np.arange(LABELED, POOL))
        ordered = [sorted(inputs.sum(dim=(1, 2, 3)).tolist()) for inputs in (one, other, plain)]
        assert ordered[0] != ordered[1]
        assert ordered[0] != ordered[2]

    def test_they_disturb_no_labelled_draw(self) -> None:
        both, alone = numbered(), numbered()
        for _ in range(5):
            both.unlabeled(2)
            assert numbers(both.labeled()[0]) == numbers(alone.labeled()[0])

    def test_the_labels_of_the_others_are_not_there(self) -> None:
        """What the draws hold of labels is those of the labelled examples."""
        draws = draws_of(replace(IMAGES, labels=IMAGES.labels))
        held = [value for value in vars(draws).values() if isinstance(value, Tensor) and value.dtype == torch.int64]
        assert [one.tolist() for one in held] == [IMAGES.labels[:LABELED].tolist()]


def test_the_pool_is_not_augmented() -> None:
    draws = draws_of(augmentation={"crop_padding": 4, "horizontal_flip": True})
    positions = np.array([29, 0, 7])
    expected = view_of().plain(torch.from_numpy(np.array(IMAGES.inputs[positions])))
    assert torch.equal(draws.pool(positions), expected)
