"""What an exact gradient norm costs, beside the least it could cost and beside what one would use instead.

All cases take the same images through the same weights: ResNet-18, ten classes, in eval mode, the entropy's gradient.
The reference is the floor: one batched forward and backward pass to the inputs, channels-last, in its best batch size,
that computes no gradient of any weight.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Figure, figures, interleave, kilobytes, matrix_products, operations
from lplgrad.acquisition.entropy import entropy
from lplgrad.backbones._network import initialize
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.machine import devices
from lplgrad.modalities import View, image
from lplgrad.rounds.checkpoints import build
from lplgrad.study.settings import BackboneRow, Compute, RecipeRow

Case = Callable[[Tensor], Tensor | list[Tensor] | None]
NAME = "gradient_norms"


def first_resnet18(large: bool, generator: torch.Generator) -> nn.Module:
    """ResNet-18 with first weights."""
    backbone = BackboneRow.model_validate({"name": "resnet18", "stem": "imagenet" if large else "cifar"})
    model = build(backbone, RecipeRow(trains="plain"), (3, 32, 32), 10).model
    initialize(model, generator)
    return model


def resnet18(large: bool = False) -> nn.Module:
    """ResNet-18 with first weights whose batch norm has seen noise, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    model = first_resnet18(large, generator)
    side = 64 if large else 32
    with torch.no_grad():
        model.train()(torch.randn(64, 3, side, side, generator=generator))
    return model.eval()


def run(quick: bool) -> Iterator[Figure]:
    """Milliseconds an image at 32 and at 224 pixels, and memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    for side, count, few, rounds in ((32, 4096 if gpu else 32, 8, 7), (224, 256 if gpu else 4, 4, 5)):
        model = resnet18(large=side > 64).to(device)
        images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)
        sizes = [size for size in ((64, 256, 1024) if gpu else (4, 8, 16, 32)) if size <= count]
        size = best_batch_size(model, images, sizes)
        least = floor(model, size)
        total = operations(lambda case=least, images=images: case(images))  # type: ignore[misc]
        products = matrix_products(total, torch.float32, device)
        cases: dict[str, tuple[Case, int]] = {
            f"floor, {size} at a time": (least, count),
            "floor, contiguous": (floor(model, size, torch.contiguous_format), count),
            "as many operations in matrix products": (lambda _, case=products: case(), count),  # type: ignore[misc]
            "exact norms, float32": (exact(model), count),
            "exact norms, bfloat16 contractions": (exact(model, torch.bfloat16), count),
            "one sample at a time, autograd": (one_at_a_time(model), few),
        }
        if side == 32:
            cases["vmap(grad)"] = (vmap_grad(model), 64 if gpu else few)
            cases |= peers(model, 64 if gpu else 16)
        check_norms(cases, images[:few])
        setting = f"{side}x{side}, {'GPU' if gpu else 'CPU'}"
        yield from _measure(setting, cases, images, 1 if quick else rounds)
        with PerSampleGradientNorms(model) as norms_of:  # before the counter sets hooks, which the engine refuses
            counted = operations(partial(norms_of, images[:few], entropy))
        share = counted / few / (total / count)
        yield Figure(NAME, setting, "operations of exact norms, in those of the floor", "", 1, share)
    for side, counts in () if not Path("/proc/self/status").exists() else ((32, (64, 256)), (224, (4, 12))):
        for count in counts:
            megabytes = _memory(16 * count if gpu else count, side)
            case = f"{16 * count if gpu else count} of {side}x{side}"
            yield Figure(NAME, "peak memory beside model and images", case, "MB", 1, megabytes)


def _measure(setting: str, cases: dict[str, tuple[Case, int]], images: Tensor, rounds: int) -> list[Figure]:
    seconds = interleave({name: partial(case, images[:count]) for name, (case, count) in cases.items()}, rounds)
    each = {name: [1000 * value / cases[name][1] for value in values] for name, values in seconds.items()}
    return figures(NAME, setting, each, "ms an image", next(iter(cases)))


def check_norms(cases: dict[str, tuple[Case, int]], images: Tensor) -> None:
    """Whether all cases that give norms give the same ones.

    Raises:
        RuntimeError: one does not.
    """
    found = {name: case(images) for name, (case, _) in cases.items()}
    norms = {name: torch.stack(list(each)).double() for name, each in found.items() if each is not None}
    reference = norms["one sample at a time, autograd"]
    for name, each in norms.items():
        if not torch.allclose(each, reference, rtol=2e-3, atol=0):
            raise RuntimeError(f"{name}: its norms differ by up to {float((each / reference - 1).abs().max()):.1g}")


def best_batch_size(model: nn.Module, images: Tensor, sizes: Sequence[int]) -> int:
    """The batch size in which the floor is fastest."""
    seconds = interleave({str(size): partial(floor(model, size), images) for size in sizes}, 3)
    return min(sizes, key=lambda size: sorted(seconds[str(size)])[1])


def floor(model: nn.Module, size: int, memory_format: torch.memory_format = torch.channels_last) -> Case:
    """Forward and backward to the inputs, and no gradient of a weight."""
    model = copy.deepcopy(model).to(memory_format=memory_format)
    model.requires_grad_(False)

    def case(images: Tensor) -> None:
        for batch in torch.split(images, size):
            entropy(model(batch.contiguous(memory_format=memory_format).requires_grad_())).sum().backward()

    return lambda images: case(images.clone())


def exact(model: nn.Module, contractions: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
    """The engine, as a query uses it."""

    model = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def case(images: Tensor) -> Tensor:
        with PerSampleGradientNorms(model, contractions) as norms_of:
            at_once = view_of(images).batch_size(norms=True)
            return torch.cat([norms_of(part, entropy).total for part in torch.split(images, at_once)])

    return case


def view_of(images: Tensor) -> View:
    """The view of images that a query would take, from normalised ones, shape (N, C, H, W)."""
    _, channels, height, width = images.shape
    shape = height, width, channels
    return image.view(image.Augmentation(), [0.5] * channels, [0.25] * channels, shape, images.device)


def one_at_a_time(model: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    """As the authors of the paper do it."""
    model = copy.deepcopy(model)
    parameters = list(model.parameters())

    def case(images: Tensor) -> list[Tensor]:
        gradients = (torch.autograd.grad(entropy(model(image[None])).sum(), parameters) for image in images)
        return [torch.stack([g.norm() for g in each]).norm() for each in gradients]

    return case


def vmap_grad(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Per-sample gradients by torch.func."""
    from torch.func import functional_call, grad, vmap

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return entropy(functional_call(model, (parameters, buffers), (image[None],))).sum()

    def case(images: Tensor) -> Tensor:
        gradients = vmap(grad(loss), in_dims=(None, 0), chunk_size=64 if images.is_cuda else 8)(parameters, images)
        return torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients.values()]).sum(dim=0).sqrt()

    return case


def peers(model: nn.Module, count: int) -> dict[str, tuple[Case, int]]:
    """Other libraries for the same task, as far as they are installed and take this model, on ``count`` images."""
    found: dict[str, tuple[Case, int]] = {}
    try:
        from backpack import backpack, extend
        from backpack.extensions import BatchL2Grad
    except ImportError:
        print("BackPACK is not installed: make bench installs it")
    else:
        extended = extend(copy.deepcopy(model)).eval()

        def case(images: Tensor) -> Tensor:
            extended.zero_grad()
            images = images.clone().requires_grad_()  # else its hooks warn
            with backpack(BatchL2Grad()):
                entropy(extended(images)).sum().backward()
            return torch.stack([parameter.batch_l2 for parameter in extended.parameters()]).sum(dim=0).sqrt()

        found["BackPACK, BatchL2Grad"] = (case, count)
    try:
        from opacus import GradSampleModule
    except ImportError:
        print("Opacus is not installed: make bench installs it")
    else:
        try:
            GradSampleModule(copy.deepcopy(model).cpu(), strict=False, force_functorch=True)(torch.randn(2, 3, 32, 32))
        except NotImplementedError as error:
            print(f"Opacus refuses this model: {error}")
        else:
            print("Opacus takes this model by now: measure it")
    return found


def _memory(count: int, side: int) -> float:
    """Peak memory in MB, a GPU's or the process's, that a query takes beside model and images."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (count, side))


def _peak(count: int, side: int) -> float:
    device = devices.set_up(Compute())
    model = first_resnet18(side > 64, torch.Generator().manual_seed(0)).eval()
    model, images = model.to(device), torch.randn(count, 3, side, side).to(device)
    exact(model)(images[:1])  # what torch loads at first use
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        exact(model)(images)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    before = kilobytes("VmRSS")
    exact(model)(images)
    return (kilobytes("VmHWM") - before) / 1024
