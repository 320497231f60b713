"""The networks of a round: built, given their first weights, written to a checkpoint and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import replacing
from lplgrad.machine.randomness import Purpose, torch_seed
from lplgrad.rounds.models import LossPrediction, ResNet, build_auxiliary, build_model, initialize
from lplgrad.study.settings import Model, Normalization
from lplgrad.study.validation import parse

FORMAT = "lplgrad checkpoint 1"


@dataclass
class Networks:
    """The networks that a round trains: the main model, and the loss prediction module if the recipe has one."""

    model: ResNet
    auxiliary: LossPrediction | None = None

    def named(self) -> dict[str, nn.Module]:
        """Return the networks by name."""
        networks: dict[str, nn.Module] = {"model": self.model}
        if self.auxiliary is not None:
            networks["auxiliary"] = self.auxiliary
        return networks

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights and buffers by ``<network>/<name>``."""
        return {
            f"{name}/{key}": tensor
            for name, network in self.named().items()
            for key, tensor in network.state_dict().items()
        }

    def to(self, device: torch.device) -> Networks:
        """Move all to a device, convolutions in channels-last memory."""
        for network in self.named().values():
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


def first_networks(
    model: Model, channels: int, classes: int, auxiliary: bool, seed: int, round_number: int
) -> Networks:
    """Build networks with the weights of a trial's seed and a round, the first or any of a recipe with ``init: fresh``.

    Each network has a random stream of its own, so that the main models of all recipes start equal.
    """
    networks = build(model, channels, classes, auxiliary)
    weights_seed = torch_seed(seed, Purpose.MODEL_WEIGHTS, round_number)
    initialize(networks.model, torch.Generator().manual_seed(weights_seed))
    if networks.auxiliary is not None:
        weights_seed = torch_seed(seed, Purpose.AUXILIARY_WEIGHTS, round_number)
        initialize(networks.auxiliary, torch.Generator().manual_seed(weights_seed))
    return networks


def build(model: Model, channels: int, classes: int, auxiliary: bool) -> Networks:
    """Build networks without weights, on the meta device."""
    main = build_model(model, channels, classes)
    return Networks(main, build_auxiliary(main) if auxiliary else None)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header that JSON can hold as one safetensors file. Nothing in it is pickled."""
    # One metadata entry: safetensors writes several in no fixed order.
    metadata = {"lplgrad": json.dumps(header, sort_keys=True)}
    data = serialize({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, metadata=metadata)
    with replacing(path) as file:
        file.write(data)


def read_tensors(
    path: Path, kind: str, remedy: str = "; delete it and run again"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of ``write_tensors``: the tensors, on the CPU, and the header.

    Raises:
        UserError: the file is truncated, or ``format`` in its header is not ``kind``. The message ends in ``remedy``.
    """
    path.open("rb").close()  # safetensors' own errors name no file
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("lplgrad", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}){remedy}") from None
    if not isinstance(header, dict) or header.pop("format", None) != kind:
        raise UserError(f"{path}: a safetensors file, but not of the format {kind!r}")
    return tensors, header


def save(path: Path, networks: Networks, model: Model, normalization: Normalization, classes: list[str]) -> None:
    """Write a checkpoint that holds everything needed to predict with it."""
    description = {
        "format": FORMAT,
        "model": model.model_dump(),
        "channels": networks.model.conv1.in_channels,
        "classes": classes,
        "normalization": normalization.model_dump(),
    }
    write_tensors(path, networks.tensors(), description)


@dataclass
class Checkpoint:
    """A checkpoint, with its networks on the CPU."""

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
        """Check that the checkpoint fits the images and, for a warm start, the settings.

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
                raise UserError(f"{self.path}: other {what} than expected ({_short(found)}, not {_short(expected)})")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: the file is truncated or foreign, or its weights do not fit the model that it describes.
    """
    tensors, description = read_tensors(path, FORMAT)
    try:
        model = parse(Model, description["model"], str(path))
        normalization = parse(Normalization, description["normalization"], str(path))
        classes, channels = description["classes"], description["channels"]
        first, last = tensors["model/conv1.weight"].shape, tensors["model/fc.weight"].shape
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
    networks = build(model, channels, len(classes), any(name.startswith("auxiliary/") for name in tensors))
    for name, network in networks.named().items():
        state = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
        _load_state(network, state, f"{path}: {name}")
    return Checkpoint(path, networks, model, normalization, classes)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _load_state(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    expected = network.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [
        name
        for name, tensor in expected.items()
        if (tensor.shape, tensor.dtype) != (state[name].shape, state[name].dtype)
    ]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} is missing, unknown or of another shape or type ({len(wrong)} such)")
    network.load_state_dict(state, assign=True)
