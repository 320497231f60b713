"""Classification models of torchvision for images of any size and number of channels."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from lplgrad.backbones._network import Network, Outputs
from lplgrad.machine.errors import UserError, nearest


class TorchvisionNetwork(Network):
    """A model of torchvision, ``body``, without its last linear layer, and that layer, ``head``.

    Args:
        name: of the model.
        shape: of an image (C, H, W).
        classes: number of classes; None for no head.
        freeze: whether the body is frozen.
        dropout: the probability that training drops a feature before the head.

    Raises:
        UserError: torchvision has no such classification model, or it does not fit the images.
    """

    def __init__(self, name: str, shape: Sequence[int], classes: int | None, freeze: bool, dropout: float) -> None:
        super().__init__()
        self.name, self.shape = name, tuple(shape)
        self.body = _model(name, self.shape)
        self.head_name = _head(self.body, name)
        old = self.body.get_submodule(self.head_name)
        assert isinstance(old, nn.Linear)
        self.feature_size = old.in_features
        self.body.set_submodule(self.head_name, nn.Identity())
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Identity() if classes is None else nn.Linear(self.feature_size, classes)
        stages = [self.body.get_submodule(f"layer{number}") for number in range(1, 5)] if _has_stages(self.body) else []
        self.stage_sizes = [_channels(stage) for stage in stages]
        self._check_shape()
        if freeze:
            self.frozen = frozenset(f"body.{key}" for key in self.body.state_dict())
            self.body.requires_grad_(False)

    def _check_shape(self) -> None:
        """Pass a batch through the network on the meta device, which computes shapes alone."""
        self.eval()
        try:
            with torch.no_grad():
                self.outputs(torch.empty(2, *self.shape, device="meta"))
        except (RuntimeError, AssertionError) as error:
            _, height, width = self.shape
            raise UserError(f"backbone.model: {self.name} does not take images of {width}x{height} ({error})") from None
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; a frozen body stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def outputs(self, inputs: Tensor, stages: bool = False) -> Outputs:
        """Return all outputs for normalised images, shape (B, C, H, W)."""
        maps: list[Tensor] = []
        hooks = []
        if stages:
            for number in range(1, len(self.stage_sizes) + 1):
                layer = self.body.get_submodule(f"layer{number}")
                hooks.append(layer.register_forward_hook(lambda module, given, output: maps.append(output)))
        try:
            features: Tensor = self.body(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        logits: Tensor = self.head(self.dropout(features))
        return Outputs(logits, features, [each.mean(dim=(2, 3)) for each in maps])


def first_weights(network: TorchvisionNetwork, weights: str | None, generator: torch.Generator) -> None:
    """Give a network on the meta device torchvision's first weights and then those of a file, if there is one.

    Torchvision draws from PyTorch's generator of the CPU. It is seeded, and restored afterwards.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(generator.initial_seed())
        body = _model(network.name, network.shape)
        body.set_submodule(network.head_name, nn.Identity())
        head = network.head
        if isinstance(head, nn.Linear):
            head = nn.Linear(head.in_features, head.out_features)
    state = {f"body.{key}": tensor for key, tensor in body.state_dict().items()}
    state |= {f"head.{key}": tensor for key, tensor in head.state_dict().items()}
    if weights is not None:
        state |= read_weights(network, weights)
    network.load_state_dict(state, assign=True)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in network.frozen)


def read_weights(network: TorchvisionNetwork, path: str) -> dict[str, Tensor]:
    """Read the weights of a file for a network: the body's, and the head's if it has as many classes.

    The weights of the first convolution are summed over the channels for grey images, and position embeddings are
    interpolated for images of another size.

    Raises:
        UserError: the file is not such a state dict, or its weights are not those of the model.
    """
    given = _read(path)
    if isinstance(network.body, VisionTransformer):
        body = network.body
        given = dict(interpolate_embeddings(body.image_size, body.patch_size, given))
    expected = {**network.body.state_dict(), **_head_of(network)}
    first = next(name for name, module in network.body.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    if first in given and given[first].dim() == 4 and network.shape[0] == 1:
        given[first] = given[first].sum(dim=1, keepdim=True)
    found: dict[str, Tensor] = {}
    for name, tensor in given.items():
        of_head = name.startswith(f"{network.head_name}.")
        if name not in expected or (tensor.shape != expected[name].shape and not of_head):
            problem = "is unknown" if name not in expected else f"has the shape {tuple(tensor.shape)}"
            images = "x".join(map(str, network.shape))
            raise UserError(
                f"{path}: not weights of torchvision's {network.name} for images of {images}: {name} {problem}"
            )
        if of_head:
            found[name.replace(f"{network.head_name}.", "head.", 1)] = tensor
        else:
            found[f"body.{name}"] = tensor.to(expected[name].dtype)
    missing = sorted(network.body.state_dict().keys() - given.keys())
    if missing:
        raise UserError(f"{path}: not all weights of torchvision's {network.name}: {missing[0]} is missing")
    head = {f"head.{key}": tensor.shape for key, tensor in network.head.state_dict().items()}
    fits = {name: tensor.shape for name, tensor in found.items() if name.startswith("head.")} == head
    return {name: tensor for name, tensor in found.items() if fits or not name.startswith("head.")}


def _head_of(network: TorchvisionNetwork) -> dict[str, Tensor]:
    return {f"{network.head_name}.{key}": torch.empty(0) for key in ("weight", "bias")}


def _read(path: str) -> dict[str, Tensor]:
    """Read a state dict. Nothing is unpickled but tensors and plain values."""
    Path(path).open("rb").close()  # if the file is missing, the error says so
    given: Any
    try:
        if path.endswith(".safetensors"):
            given = load_file(path)
        else:
            given = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a file of weights ({str(error).splitlines()[0]})") from None
    for key in ("state_dict", "model"):
        if isinstance(given, dict) and isinstance(given.get(key), dict):
            given = given[key]
    if not isinstance(given, dict) or not given or not all(isinstance(one, Tensor) for one in given.values()):
        raise UserError(f"{path}: not a state dict: names with tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in given.items()}


def _model(name: str, shape: Sequence[int]) -> nn.Module:
    """Build a model of torchvision with its own first weights, and a first convolution for the images' channels."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"backbone.model: torchvision has no classification model {name!r} ({nearest(name, known)})")
    channels, height, width = shape
    builder = torchvision.models.get_model_builder(name)
    given: dict[str, Any] = {"weights": None}
    if name.startswith("vit_"):
        given["image_size"] = height
    if name in ("googlenet", "inception_v3"):
        given |= {"aux_logits": False, "init_weights": True}
    try:
        try:
            model: nn.Module = builder(**given)
        except NotImplementedError:  # its constructor computes with tensors, which a meta device cannot do
            with torch.device("cpu"):
                model = builder(**given).to("meta")
    except (ValueError, AssertionError) as error:
        raise UserError(f"backbone.model: {name} does not take images of {width}x{height} ({error})") from None
    if name.startswith("vit_") and height != width:
        raise UserError(f"backbone.model: {name} takes square images, not {width}x{height}")
    if channels != 3:
        first, old = next((name, one) for name, one in model.named_modules() if isinstance(one, nn.Conv2d))
        names = inspect.signature(nn.Conv2d).parameters
        like = {key: getattr(old, key) for key in names if hasattr(old, key) and key not in ("bias", "device", "dtype")}
        model.set_submodule(first, nn.Conv2d(**{**like, "in_channels": channels, "bias": old.bias is not None}))
    return model


def _head(model: nn.Module, name: str) -> str:
    """Return the name of the last linear layer."""
    *_, (last, module) = model.named_modules()
    linear = [key for key, one in model.named_modules() if isinstance(one, nn.Linear)]
    if not linear or linear[-1] != last:
        kind = type(module).__name__
        raise UserError(f"backbone.model: {name} does not end in a linear layer, but in {last} ({kind})")
    return str(last)


def _has_stages(model: nn.Module) -> bool:
    return isinstance(model, torchvision.models.ResNet)


def _channels(stage: nn.Module) -> int:
    *_, last = (one for one in stage.modules() if isinstance(one, nn.BatchNorm2d) and one.num_features)
    return int(last.num_features)
