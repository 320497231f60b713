"""Augmentation and normalisation against the plain loop over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lplgrad.modalities._image import Augment, Normalize
from lplgrad.modalities.image import Augmentation


def images(count: int = 9, height: int = 6, width: int = 5, channels: int = 3) -> torch.Tensor:
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.integers(1, 256, size=(count, height, width, channels)).astype(np.uint8))


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_those_of_a_loop(flip: bool) -> None:
    batch = images()
    augment = Augment(batch, Augmentation(crop_padding=2, horizontal_flip=flip))
    top, left, flipped = draws = augment.draw(np.random.default_rng(4))
    chosen = torch.tensor([3, 0, 8, 8])
    found = augment(chosen, torch.from_numpy(draws)[:, chosen])
    for row, index in enumerate(chosen.tolist()):
        padded = np.pad(batch[index].numpy(), ((2, 2), (2, 2), (0, 0)))
        y, x = int(top[index]), int(left[index])
        expected = padded[y : y + 6, x : x + 5]
        if flipped[index]:
            expected = expected[:, ::-1]
        assert np.array_equal(found[row].numpy(), expected)


def test_every_offset_is_drawn_as_often() -> None:
    augment = Augment(images(5000, 2, 2, 1), Augmentation(crop_padding=1, horizontal_flip=True))
    top, left, flip = augment.draw(np.random.default_rng(0))
    for offsets in (top, left):
        counts = np.bincount(offsets, minlength=3)
        assert len(counts) == 3
        assert np.abs(counts - 5000 / 3).max() < 5 * (5000 * 2 / 9) ** 0.5
    assert abs(int(flip.sum()) - 2500) < 5 * 1250**0.5


def test_without_augmentation_images_are_as_they_were() -> None:
    batch = images()
    augment = Augment(batch, Augmentation())
    assert torch.equal(augment(torch.arange(9), torch.from_numpy(augment.draw(np.random.default_rng(0)))), batch)


def test_draws_are_the_same_whatever_is_switched_on() -> None:
    """The stream advances alike, so that a recipe with other settings stays paired."""
    one, two = (Augment(images(), Augmentation(crop_padding=1, horizontal_flip=flip)) for flip in (False, True))
    streams = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(2):
        assert np.array_equal(one.draw(streams[0])[:2], two.draw(streams[1])[:2])


def test_normalisation_is_torchvisions() -> None:
    from torchvision.transforms import functional as reference

    mean, std = [0.49, 0.48, 0.45], [0.2, 0.3, 0.25]
    batch = images()
    found = Normalize(mean, std, torch.device("cpu"))(batch)
    expected = torch.stack([reference.normalize(reference.to_tensor(image.numpy()), mean, std) for image in batch])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
