"""Classification models of torchvision for images of any size and number of channels."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torchvision
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

    For grey images, the weights of the first convolution are summed over three channels. For images of another size,
    position embeddings are interpolated.

    Raises:
        UserError: the file is not such a state dict, or its weights are not those of the model.
    """
    given = _read(path)
    body = network.body
    if isinstance(body, VisionTransformer) and given.get("encoder.pos_embedding", torch.empty(0)).dim() == 3:
        try:
            given = dict(interpolate_embeddings(body.image_size, body.patch_size, given))
        except ValueError as error:
            raise UserError(f"{path}: its position embeddings do not fit ({error})") from None
    first = next(name for name, module in body.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    if first in given and given[first].dim() == 4 and (given[first].shape[1], network.shape[0]) == (3, 1):
        given[first] = given[first].sum(dim=1, keepdim=True)
    expected = body.state_dict()
    classes = len(given.get(f"{network.head_name}.bias", ()))
    expected[f"{network.head_name}.weight"] = torch.empty(classes, network.feature_size, device="meta")
    expected[f"{network.head_name}.bias"] = torch.empty(classes, device="meta")
    for name, tensor in expected.items():
        if name.endswith(".num_batches_tracked"):
            given.setdefault(name, torch.zeros(tensor.shape, dtype=tensor.dtype))  # which old files do not have
    problems = [f"{name} is missing" for name in expected.keys() - given.keys()]
    problems += [f"{name} is unknown" for name in given.keys() - expected.keys()]
    for name in expected.keys() & given.keys():
        found, wanted = given[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"{name} has the shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
        elif found.layout != torch.strided or found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{name} is of the type {found.dtype}, {found.layout}")
        elif found.is_floating_point() and not found.isfinite().all():
            problems.append(f"{name} has numbers that are not finite")
    if problems:
        images = "x".join(map(str, network.shape))
        raise UserError(f"{path}: not weights of torchvision's {network.name} for images of {images}: {min(problems)}")
    fits = isinstance(network.head, nn.Linear) and network.head.out_features == classes
    heads = (f"{network.head_name}.weight", f"{network.head_name}.bias")
    weights = {f"body.{name}": tensor.to(expected[name].dtype) for name, tensor in given.items() if name not in heads}
    if fits:
        weights |= {f"head.{name.rpartition('.')[2]}": given[name].float() for name in heads}
    return weights


# Names in torchvision's own files: of classifiers that only training uses, and of DenseNet's layers.
AUXILIARY = re.compile(r"(AuxLogits|aux1|aux2)\.")
DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def _read(path: str) -> dict[str, Tensor]:
    """Read a state dict. Nothing is unpickled but tensors and plain values."""
    Path(path).open("rb").close()  # if the file is missing, the error says so
    given: Any
    try:
        if path.endswith(".safetensors"):
            given = load_file(path)
        else:
            given = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises exceptions of many types for a file that it did not write
        reason = "it needs code to be unpickled" if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise UserError(f"{path}: not a file of weights that torch.save or safetensors wrote ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(given, dict) and isinstance(given.get(key), dict):
            given = given[key]
    if not isinstance(given, dict) or not given or not all(isinstance(one, Tensor) for one in given.values()):
        raise UserError(f"{path}: not a state dict: names with tensors")
    found: dict[str, Tensor] = {}
    for key, tensor in given.items():
        name = DENSE.sub(r"\1\2", str(key).removeprefix("module."))
        if name in found:
            raise UserError(f"{path}: has {name} twice")
        if not AUXILIARY.match(name):
            found[name] = tensor
    return found


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
