"""The networks of a round: what a recipe trains, built, given first weights, and brought to disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import Purpose, torch_stream
from lplgrad.rounds.files import read_checkpoint, write_checkpoint
from lplgrad.rounds.models import LossPrediction, ResNet, build_auxiliary, build_model, initialize
from lplgrad.study.settings import Model, Normalization
from lplgrad.study.validation import parse


@dataclass
class Networks:
    """What a round trains.

    Attributes:
        model: the main model.
        auxiliary: the loss prediction module, where the recipe has one.
    """

    model: ResNet
    auxiliary: LossPrediction | None = None

    def named(self) -> dict[str, nn.Module]:
        """The networks there are, by name."""
        networks: dict[str, nn.Module] = {"model": self.model}
        if self.auxiliary is not None:
            networks["auxiliary"] = self.auxiliary
        return networks

    def to(self, device: torch.device) -> Networks:
        """Move all to a device, convolutions in channels-last memory."""
        for network in self.named().values():
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


def first_networks(
    model: Model, channels: int, classes: int, auxiliary: bool, seed: int, round_number: int
) -> Networks:
    """Networks with new weights. Main model and auxiliary module draw from streams of their own, so that all recipes
    start from the same main model.

    Args:
        model: the main model.
        channels: channels of an image.
        classes: number of classes.
        auxiliary: whether there is a loss prediction module.
        seed: the trial's seed.
        round_number: the round that starts anew: 1, or every one of a recipe with ``init: fresh``.
    """
    networks = _build(model, channels, classes, auxiliary)
    initialize(networks.model, torch_stream(seed, Purpose.MODEL_WEIGHTS, round_number))
    if networks.auxiliary is not None:
        initialize(networks.auxiliary, torch_stream(seed, Purpose.AUXILIARY_WEIGHTS, round_number))
    return networks


def _build(model: Model, channels: int, classes: int, auxiliary: bool) -> Networks:
    main = build_model(model, channels, classes)
    return Networks(main, build_auxiliary(main) if auxiliary else None)


def save(path: Path, networks: Networks, model: Model, normalization: Normalization, classes: list[str]) -> None:
    """Write a checkpoint that holds all one needs to predict with it."""
    description = {
        "model": model.model_dump(),
        "channels": networks.model.conv1.in_channels,
        "classes": classes,
        "normalization": normalization.model_dump(),
    }
    write_checkpoint(path, {name: network.state_dict() for name, network in networks.named().items()}, description)


@dataclass
class Checkpoint:
    """A checkpoint as it was read.

    Attributes:
        path: the file.
        networks: with their weights, on the CPU.
        model: how the main model is built.
        normalization: what the images were normalised with.
        classes: names of the classes.
    """

    path: Path
    networks: Networks
    model: Model
    normalization: Normalization
    classes: list[str]

    def check_fits(
        self,
        channels: int,
        classes: list[str],
        model: Model | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        """Make sure that the checkpoint is of the images and, to train it on, of the settings at hand.

        Raises:
            UserError: what differs.
        """
        takes = self.networks.model.conv1.in_channels
        wanted = {
            "image channels": (takes, channels),
            "classes": (self.classes, classes),
            "model": (self.model, self.model if model is None else model),
            "normalization": (self.normalization, self.normalization if normalization is None else normalization),
        }
        for what, (found, expected) in wanted.items():
            if found != expected:
                raise UserError(
                    f"{self.path}: its {what} are not those asked for ({_short(found)}; {_short(expected)})"
                )


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Nothing in the result shares memory with another.

    Raises:
        UserError: the file is truncated, foreign, or its weights are not those of the model it describes.
    """
    states, description = read_checkpoint(path)
    try:
        model = parse(Model, description["model"], str(path))
        normalization = parse(Normalization, description["normalization"], str(path))
        classes, channels = description["classes"], description["channels"]
        first, last = states["model"]["conv1.weight"].shape, states["model"]["fc.weight"].shape
    except (KeyError, TypeError):
        raise UserError(f"{path}: does not describe its model; was it written by another version?") from None
    # Before anything of the size that the file claims is made.
    if (
        not (isinstance(classes, list) and all(isinstance(name, str) for name in classes) and isinstance(channels, int))
        or first[:2] != (model.width or first[0], channels)
        or last[:1] != (len(classes),)
        or len(normalization.mean) != channels
    ):
        raise UserError(f"{path}: describes another model than its weights are of")
    networks = _build(model, channels, len(classes), "auxiliary" in states)
    for name, network in networks.named().items():
        _load_state(network, states.get(name, {}), f"{path}: {name}")
    return Checkpoint(path, networks, model, normalization, classes)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _load_state(network: nn.Module, state: Mapping[str, Any], where: str) -> None:
    expected = network.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [
        name
        for name, tensor in expected.items()
        if (tensor.shape, tensor.dtype) != (state[name].shape, state[name].dtype)
    ]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} is missing, unknown or of another shape or type ({len(wrong)} such)")
    network.load_state_dict(state, assign=True)
