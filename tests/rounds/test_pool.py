"""The pool: initial labels, candidates, and that strategies of one seed are paired."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import Purpose, stream, torch_seed
from lplgrad.rounds.pool import TEST_EXAMPLES, LabeledSet, draw_candidates, draw_start, draw_test_examples


def labeled(*indices: int) -> LabeledSet:
    chosen = np.array(indices, dtype=np.int64)
    return LabeledSet(chosen, np.ones(len(indices), dtype=np.int64), chosen % 4)


def test_the_start_is_distinct_and_follows_the_seed() -> None:
    first = draw_start(100, 20, seed=3)
    assert len(set(first.tolist())) == 20
    assert np.array_equal(first, draw_start(100, 20, seed=3))
    assert not np.array_equal(first, draw_start(100, 20, seed=4))


def test_the_start_is_uniform() -> None:
    """Every image is drawn as often: over 2,000 seeds 20 of 100 images, 400 each, within five standard deviations."""
    counts = sum(np.bincount(draw_start(100, 20, seed), minlength=100) for seed in range(2000))
    assert np.abs(counts - 400).max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_a_stratified_start_has_the_proportions_of_the_pool() -> None:
    """Shares of 10 from classes of 50, 25, 15, 7 and 3 of 100 images: 5, 2.5, 1.5, 0.7 and 0.3. Two are left over: one
    for 0.7, and the smaller class number of the two halves gets the other."""
    classes = np.repeat([3, 1, 0, 2, 4], [50, 25, 15, 7, 3])
    for seed in range(20):
        counts = np.bincount(classes[draw_start(100, 10, seed, classes)], minlength=5)
        assert counts.tolist() == [2, 2, 1, 5, 0]
    assert len(np.unique(draw_start(100, 100, 1, classes))) == 100
    assert np.bincount(draw_start(100, 100, 1, classes)).max() == 1


def test_a_stratified_start_takes_the_first_images_of_each_class_from_the_uniform_draw() -> None:
    """If the pool has one class, the two are the same."""
    assert np.array_equal(draw_start(100, 20, 3, np.zeros(100, np.int64)), draw_start(100, 20, 3))
    classes = np.arange(100) % 2
    order = stream(3, Purpose.INITIAL_LABELS).permutation(100)
    halves = [order[order % 2 == one][:10] for one in (0, 1)]
    assert np.array_equal(draw_start(100, 20, 3, classes), np.sort(np.concatenate(halves)))


def test_candidates_are_unlabelled_distinct_and_sorted() -> None:
    have = labeled(*range(0, 100, 3))
    drawn = draw_candidates(100, have, 30, seed=1, round_number=2)
    assert len(drawn) == 30
    assert (np.diff(drawn) > 0).all()
    assert not np.isin(drawn, have.indices).any()


def test_candidates_are_drawn_from_one_permutation_for_all_strategies() -> None:
    """Two labelled sets that differ in k images give candidates that differ in k at most."""
    one = draw_candidates(1000, labeled(*range(100)), 300, seed=1, round_number=2)
    other = draw_candidates(1000, labeled(*range(5, 105)), 300, seed=1, round_number=2)
    assert len(np.setdiff1d(one, other)) <= 5
    assert not np.array_equal(one, draw_candidates(1000, labeled(*range(100)), 300, seed=1, round_number=3))


def test_all_is_the_whole_unlabelled_pool() -> None:
    drawn = draw_candidates(10, labeled(3, 7), "all", seed=1, round_number=1)
    assert drawn.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]


def test_too_few_left_is_told() -> None:
    with pytest.raises(UserError, match="candidates: 9 are to be drawn in round 4, but only 8 of 10 examples are left"):
        draw_candidates(10, labeled(3, 7), 9, seed=1, round_number=4)
    with pytest.raises(UserError, match="start: 11"):
        draw_start(10, 11, seed=1)


def test_extending_keeps_what_was_and_refuses_repeats() -> None:
    more = labeled(5, 2).extended(np.array([9, 1]), np.array([3, -1]), round_number=2)
    assert more.indices.tolist() == [5, 2, 1, 9]
    assert more.rounds.tolist() == [1, 1, 2, 2]
    assert more.labels.tolist() == [1, 2, -1, 3], "each stays with its image"
    assert [part.tolist() for part in vars(more.known).values()] == [[5, 2, 9], [1, 1, 2], [1, 2, 3]]
    for bad in ([2, 8], [8, 8]):
        with pytest.raises(ValueError, match="twice"):
            labeled(5, 2).extended(np.array(bad), np.zeros(2, np.int64), round_number=2)


def test_streams_differ_by_purpose_seed_and_round_and_by_nothing_else() -> None:
    keys = [(seed, purpose, number) for seed in (0, 1) for purpose in Purpose for number in (0, 1, 2)]
    draws = {key: stream(*key).integers(2**62) for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert all(stream(*key).integers(2**62) == value for key, value in draws.items())
    weights = [torch_seed(stream(seed, Purpose.MODEL_WEIGHTS)) for seed in (1, 1, 2)]
    assert weights[0] == weights[1] != weights[2]


def test_a_purpose_with_a_name_has_a_stream_of_its_own() -> None:
    """So that a recipe needs no number. The name is hashed, and its stream is the same in every process."""
    names = ["modules in epoch 0", "modules in epoch 1", "unlabeled batches", ""]
    draws = [stream(1, purpose, 2).integers(2**62) for purpose in (*names, *Purpose)]
    assert len(set(draws)) == len(draws)
    number = int.from_bytes(hashlib.sha256(b"unlabeled batches").digest()[:8])
    expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(number, 3))).permutation(8)
    assert stream(7, "unlabeled batches", 3).permutation(8).tolist() == expected.tolist()


def test_the_numbers_of_the_purposes_never_change() -> None:
    """They are part of every published result."""
    assert [purpose.name for purpose in sorted(Purpose)] == [
        "INITIAL_LABELS", "CANDIDATES", "MODEL_WEIGHTS", "AUXILIARY_WEIGHTS", "BATCHES", "AUGMENTATION",
        "RANDOM_SCORES", "QUERY_AUGMENTATION", "OBSERVED_EXAMPLES", "TEST_EXAMPLES",
    ]  # fmt: skip
    assert stream(7, Purpose.CANDIDATES, 3).permutation(8).tolist() == [4, 6, 5, 0, 2, 7, 3, 1]


def test_test_images_follow_the_seed_alone_and_share_no_stream() -> None:
    drawn = draw_test_examples(5000, seed=1)
    assert len(set(drawn.tolist())) == TEST_EXAMPLES
    assert (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, draw_test_examples(5000, seed=1))
    assert not np.array_equal(drawn, draw_test_examples(5000, seed=2))
    observed = stream(1, Purpose.OBSERVED_EXAMPLES).permutation(5000)[:TEST_EXAMPLES]
    assert not np.array_equal(drawn, np.sort(observed))
    assert draw_test_examples(20, seed=1).tolist() == list(range(20)), "all where there are fewer"
