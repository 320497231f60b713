"""The learner of a round: built, given its first weights, written to a checkpoint and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from lplgrad import backbones, recipes
from lplgrad.acquisition import unmet
from lplgrad.backbones._network import Network, initialize
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest, replacing
from lplgrad.machine.randomness import Purpose, torch_seed
from lplgrad.recipes import Learner, Spec
from lplgrad.study.settings import BackboneRow, Normalization, RecipeRow
from lplgrad.study.validation import parse

FORMAT = "lplgrad checkpoint 2"
PURPOSES = {"model": Purpose.MODEL_WEIGHTS, "auxiliary": Purpose.AUXILIARY_WEIGHTS}


def build(backbone: BackboneRow, recipe: RecipeRow, shape: Sequence[int], classes: int) -> Learner:
    """Build a learner without weights, on the meta device, for inputs of a shape (without the batch)."""
    kind = recipes.registry.load(recipe.trains)
    return build_learner(kind.learner, recipe.checked_options, backbone, shape, classes)


def build_learner(
    learner: Callable[[Spec, Any], Learner], options: Any, backbone: BackboneRow, shape: Sequence[int], classes: int
) -> Learner:
    """Build a learner of any class without weights, as ``build`` does."""
    with torch.device("meta"):
        return learner(Spec(partial(_network_of, backbone, shape), tuple(shape), classes), options)


def _network_of(backbone: BackboneRow, shape: Sequence[int], classes: int | None) -> Network:
    return backbones.registry.load(backbone.name).build(backbone.checked_options, shape, classes)


def first_weights(
    learner: Learner, backbone: BackboneRow, stream: Callable[[Purpose | str], np.random.Generator]
) -> Learner:
    """Give a learner its first weights: those of the first round, or of any round of a recipe with ``init: fresh``.

    Each network has a random stream of its own, so that the main models of all recipes start equal.

    Args:
        learner: on the meta device.
        backbone: of the main model.
        stream: returns the random stream of a purpose.
    """
    own = backbones.registry.load(backbone.name).initialize
    for name, network in learner.networks.items():
        weights_seed = torch_seed(stream(PURPOSES.get(name, f"{name} weights")))
        generator = torch.Generator().manual_seed(weights_seed)
        try:
            if own is not None and isinstance(network, Network):
                own(network, backbone.checked_options, generator)
            else:
                initialize(network, generator)
        except NotImplementedError as error:
            raise UserError(f"{name}: {error}") from None
    return learner


def to_device(learner: Learner, device: torch.device) -> Learner:
    """Move all to a device, convolutions in channels-last memory.

    The counters of batch norms stay on the CPU, because on a GPU each step of each counter is a kernel.
    """
    for network in learner.networks.values():
        layers: list[Any] = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._NormBase)]
        counters = [layer.num_batches_tracked for layer in layers]
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for layer, counter in zip(layers, counters, strict=True):
            layer.num_batches_tracked = counter
    learner.state = {name: tensor.to(device) for name, tensor in learner.state.items()}
    return learner


def _frozen(network: nn.Module) -> frozenset[str]:
    return network.frozen if isinstance(network, Network) else frozenset()


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """Return all weights and buffers by ``<network>/<name>``, and the state by ``state/<name>``.

    Those that a backbone reads from a file and never changes are not included.
    """
    networks = {
        f"{name}/{key}": tensor
        for name, network in learner.networks.items()
        for key, tensor in network.state_dict().items()
        if key not in _frozen(network)
    }
    return {**networks, **{f"state/{name}": tensor for name, tensor in learner.state.items()}}


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
            # Cloned: the header's length decides where the tensors lie in the file's memory, PyTorch chooses
            # instructions by that, and these can change the last bits of a result.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}){remedy}") from None
    if not isinstance(header, dict) or header.pop("format", None) != kind:
        raise UserError(f"{path}: a safetensors file, but not of the format {kind!r}")
    return tensors, header


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about its learner and its examples."""

    backbone: BackboneRow
    recipe: RecipeRow
    shape: Sequence[int]  # of one input: channels, height and width of an image
    normalization: Normalization
    classes: list[str]
    modality: str = "image"
    fit: str | None = None  # how images were brought to one size; None if they had one
    files: Mapping[str, str] = field(default_factory=dict)  # digests of the files that options name, by path


def save(path: Path, learner: Learner, about: Description) -> None:
    """Write a checkpoint that holds everything needed to predict with it.

    Frozen weights are not included: they are read from the files that the description names.
    """
    rows = {name: getattr(about, name).model_dump(by_alias=True) for name in ("backbone", "recipe", "normalization")}
    others = {name: getattr(about, name) for name in ("classes", "modality", "fit")}
    description = {"format": FORMAT, **rows, **others, "shape": list(about.shape), "files": dict(about.files)}
    write_tensors(path, tensors_of(learner), description)


@dataclass
class Checkpoint:
    """A checkpoint, with its learner on the CPU."""

    path: Path
    learner: Learner
    about: Description

    def check_fits(
        self,
        shape: Sequence[int],
        classes: list[str],
        backbone: BackboneRow | None = None,
        recipe: RecipeRow | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        """Check that the checkpoint fits the data and, for a warm start, the settings.

        Raises:
            UserError: what differs.
        """
        wanted = {
            "shape of inputs": (list(self.about.shape), list(shape)),
            "classes": (self.about.classes, classes),
            "backbone": (self.about.backbone, backbone or self.about.backbone),
            "recipe": (self.about.recipe.trains, (recipe or self.about.recipe).trains),
            "normalization": (self.about.normalization, normalization or self.about.normalization),
        }
        for what, (found, expected) in wanted.items():
            if found != expected:
                raise UserError(f"{self.path}: other {what} than expected ({_short(found)}, not {_short(expected)})")

    @property
    def offered(self) -> frozenset[str]:
        """What acquisition functions can need of the learner."""
        backbone = backbones.registry.load(self.about.backbone.name).offers(self.about.backbone.checked_options)
        return recipes.registry.load(self.about.recipe.trains).offered(self.about.recipe.checked_options, backbone)

    def check_offers(self, needs: Iterable[str], acquisition: str) -> None:
        """Check that the learner offers what an acquisition function needs.

        Raises:
            UserError: what it lacks.
        """
        for need in unmet(needs, self.offered):
            raise UserError(
                f"{self.path}: was trained by the recipe {self.about.recipe.trains!r} with the backbone "
                f"{self.about.backbone.name!r}, which does not offer {need}; {acquisition} needs it"
            )


def load(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: the file is truncated or foreign, or its weights do not fit the networks that it describes.
    """
    path = Path(path)
    tensors, description = read_tensors(path, FORMAT)
    try:
        backbone = parse(BackboneRow, description["backbone"], str(path))
        recipe = parse(RecipeRow, description["recipe"], str(path))
        normalization = parse(Normalization, description["normalization"], str(path))
        classes, shape, files = (description[name] for name in ("classes", "shape", "files"))
        sound = isinstance(classes, list) and isinstance(shape, list) and isinstance(files, dict)
        sound = sound and all(isinstance(name, str) for name in [*classes, *files, *files.values()])
        if not (sound and classes) or not all(type(size) is int and size > 0 for size in shape):
            raise TypeError
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{path}: does not describe its model; was it written by another version?") from None
    try:
        learner = build(backbone, recipe, shape, len(classes))  # on the meta device, whatever size the file claims
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError):
        raise UserError(f"{path}: describes a model that cannot be built") from None
    foreign = {name.partition("/")[0] for name in tensors} - {*learner.networks, "state"}
    if foreign:
        raise UserError(f"{path}: has weights of a network that its recipe does not train ({foreign.pop()})")
    kind = backbones.registry.load(backbone.name)
    for name, network in learner.networks.items():
        state = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
        if kind.frozen is not None and isinstance(network, Network) and network.frozen:
            _check_files(path, files)
            state |= kind.frozen(network, backbone.checked_options)
        _load_state(network, state, f"{path}: {name}")
    learner.state = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith("state/")}
    kept: dict[str, Any] = {name: description.get(name) for name in ("modality", "fit")}
    return Checkpoint(path, learner, Description(backbone, recipe, shape, normalization, classes, files=files, **kept))


def with_weights(learner: Learner, before: Checkpoint) -> Learner:
    """Give a learner on the meta device the weights and the state of a checkpoint.

    Raises:
        UserError: its networks are others, because options of the recipe that they depend on have changed.
    """
    trained = before.learner.networks
    if learner.networks.keys() != trained.keys():
        raise UserError(f"{before.path}: has the networks {', '.join(trained)}, not {', '.join(learner.networks)}")
    for name, network in learner.networks.items():
        _load_state(network, trained[name].state_dict(), f"{before.path}: {name}")
    learner.state = before.learner.state
    return learner


def _check_files(path: Path, files: Mapping[str, str]) -> None:
    """Raise UserError if a file of frozen weights is not the one that the checkpoint was trained with."""
    for name, digest in files.items():
        if not Path(name).exists() or file_digest(Path(name)) != digest:
            raise UserError(f"{path}: was trained with another file {name}; put that file back, or train again")


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
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    network.load_state_dict(state, assign=True)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trainable)
