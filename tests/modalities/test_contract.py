"""What every modality must do."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lplgrad.modalities import registry

CPU = torch.device("cpu")
DRAW = np.random.default_rng(0)
EXAMPLES: dict[str, npt.NDArray[Any]] = {  # 12 stored examples of each modality
    "image": DRAW.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
    "vector": DRAW.normal(size=(12, 7)).astype(np.float32),
    "series": DRAW.normal(3, 2, size=(12, 9, 2)).astype(np.float32),
}
AUGMENTED: dict[str, dict[str, Any]] = {
    "image": {"crop_padding": 2, "horizontal_flip": True},
    "series": {"crop_padding": 2},
}
NAMES = registry.names()


def view_of(name: str, device: torch.device = CPU, **augmentation: Any) -> Any:
    modality, stored = registry.load(name), EXAMPLES[name]
    mean, std = modality.statistics(stored, Path())
    return modality.view(modality.augmentation.model_validate(augmentation), mean, std, stored.shape[1:], device)


@pytest.mark.parametrize("name", NAMES)
def test_examples_pass_the_check_and_others_do_not(name: str) -> None:
    modality, stored = registry.load(name), EXAMPLES[name]
    assert modality.problem(stored) is None
    for wrong in (
        stored[:0],
        stored.astype(np.float64),
        stored[..., np.newaxis],
        stored.reshape(len(stored), -1)[:, 0],
    ):
        assert modality.problem(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_have_mean_zero_and_variance_one(name: str) -> None:
    stored = torch.from_numpy(EXAMPLES[name])
    inputs = view_of(name).plain(stored)
    assert inputs.dtype == torch.float32
    assert tuple(inputs.shape[1:]) == registry.load(name).input_shape(EXAMPLES[name].shape[1:])
    channels = inputs.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(channels.mean(dim=1), torch.zeros(len(channels)).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.var(dim=1, correction=0), torch.ones(len(channels)).double(), atol=1e-4, rtol=0)
    assert torch.equal(view_of(name).plain(stored), inputs)
    assert torch.equal(view_of(name).plain(stored[3:5]), inputs[3:5])


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_that_does_not_vary_is_centred_only(name: str) -> None:
    stored = EXAMPLES[name].copy()
    stored[..., -1] = 7
    mean, std = registry.load(name).statistics(stored, Path())
    assert std[-1] == 1
    assert all(value > 0 for value in std)
    assert mean[-1] == pytest.approx(7 / (255 if stored.dtype == np.uint8 else 1))


@pytest.mark.parametrize("name", NAMES)
def test_equal_draws_give_equal_examples(name: str) -> None:
    stored = torch.from_numpy(EXAMPLES[name])
    for augmentation in ({}, AUGMENTED.get(name, {})):
        augmenter = view_of(name, **augmentation).augmenter(stored)
        draws = torch.from_numpy(augmenter.draw(np.random.default_rng(5)))
        assert draws.dtype == torch.int64
        assert draws.shape[1] == len(stored)
        again = view_of(name, **augmentation).augmenter(stored)
        assert torch.equal(torch.from_numpy(again.draw(np.random.default_rng(5))), draws)
        positions = torch.tensor([4, 1, 4])
        one = augmenter(positions, draws[:, positions])
        assert torch.equal(one, again(positions, draws[:, positions]))
        assert one.dtype == stored.dtype
        assert one.shape == (3, *stored.shape[1:])
        assert torch.equal(one[0], one[2])
        if not augmentation:
            assert torch.equal(one, stored[positions])
        elif name in AUGMENTED:
            everything = torch.arange(len(stored))
            assert not torch.equal(augmenter(everything, draws), stored)


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_depend_on_memory(name: str) -> None:
    view = view_of(name)
    assert view.batch_size() >= 1
    assert view.batch_size(norms=True) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_distances_are_between_examples(name: str) -> None:
    numbers = registry.load(name).numbers(EXAMPLES[name])
    assert numbers.dtype == np.float64
    assert numbers.ndim == 2
    assert len(numbers) == len(EXAMPLES[name])
    assert np.array_equal(registry.load(name).numbers(EXAMPLES[name][3:5]), numbers[3:5])


def test_series_are_shifted_within_zeros() -> None:
    stored = torch.arange(1, 7, dtype=torch.float32).view(1, 6, 1)
    modality = registry.load("series")
    view = modality.view(modality.augmentation.model_validate({"crop_padding": 2}), [0.0], [1.0], (6, 1), CPU)
    shifted = [
        view.augmenter(stored)(torch.tensor([0]), torch.tensor([[start]])).flatten().tolist() for start in range(5)
    ]
    assert shifted == [
        [0, 0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6, 0],
        [3, 4, 5, 6, 0, 0],
    ]


def test_a_number_that_is_not_finite_is_named() -> None:
    stored = EXAMPLES["vector"].copy()
    stored[8, 2] = np.nan
    assert registry.load("vector").problem(stored) == "must be finite numbers; example 8 has others"
