"""Checkpoints: written and read back to the bit, and refused if they are not whole or do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lplgrad.machine.errors import UserError
from lplgrad.rounds.checkpoints import FORMAT, Description, load, read_tensors, save, tensors_of, write_tensors
from tests.learners import JOINT, NORMALIZATION, SMALL, learner_of, same, state

CLASSES = ["a", "b", "c"]


def write(path: Path) -> Path:
    save(path, learner_of(JOINT, classes=3), Description(SMALL, JOINT, (1, 8, 8), NORMALIZATION, CLASSES))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint.safetensors")


def test_comes_back_and_aliases_nothing(checkpoint: Path) -> None:
    one, two = load(checkpoint), load(checkpoint)
    assert (one.about.classes, one.about.shape) == (CLASSES, [1, 8, 8])
    assert (one.about.normalization, one.about.backbone, one.about.recipe) == (NORMALIZATION, SMALL, JOINT)
    assert set(one.learner.networks) == {"model", "auxiliary"}
    assert same(state(one.learner), state(learner_of(JOINT, classes=3)))
    with torch.no_grad():
        one.learner.model.get_parameter("fc.weight").add_(1)
    assert not same(state(one.learner), state(two.learner))
    assert all(parameter.requires_grad for parameter in one.learner.model.parameters())


def test_same_networks_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    assert write(tmp_path / "again").read_bytes() == checkpoint.read_bytes()


def test_the_state_of_a_recipe_comes_back(tmp_path: Path) -> None:
    learner = learner_of(JOINT, classes=3)
    learner.state = {"thresholds": torch.tensor([0.5, 2.0]), "count": torch.tensor(7)}
    save(tmp_path / "c", learner, Description(SMALL, JOINT, (1, 8, 8), NORMALIZATION, CLASSES))
    found = load(tmp_path / "c").learner
    assert {"state/thresholds", "state/count"} <= tensors_of(found).keys()
    assert same(state(found), state(learner))


@pytest.mark.parametrize("length", [0, 4, 100, -100, -1])
def test_truncated_is_refused(checkpoint: Path, length: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load(checkpoint)


def test_foreign_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2)}, foreign)
    with pytest.raises(UserError, match="not of the format 'lplgrad checkpoint 2'"):
        load(foreign)
    torch.save({"weight": torch.ones(2)}, tmp_path / "pickled.pt")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load(tmp_path / "pickled.pt")
    with pytest.raises(OSError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_weights_of_another_model_are_refused(checkpoint: Path) -> None:
    tensors, description = read_tensors(checkpoint, FORMAT)
    header = {**description, "format": FORMAT}
    write_tensors(checkpoint, tensors, {**header, "backbone": {"name": "resnet99"}})
    with pytest.raises(UserError, match="name: unknown backbone 'resnet99'"):
        load(checkpoint)
    write_tensors(checkpoint, tensors, {**header, "recipe": {"trains": "plain"}})
    with pytest.raises(UserError, match=r"has weights of a network that its recipe does not train \(auxiliary\)"):
        load(checkpoint)
    del tensors["model/fc.bias"]
    write_tensors(checkpoint, tensors, header)
    with pytest.raises(UserError, match=r"model: fc.bias is missing, unknown or of another shape or type \(1 such\)"):
        load(checkpoint)
