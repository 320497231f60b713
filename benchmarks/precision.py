"""How exact the gradient norms are, and whether rounding the contractions changes what is chosen.

The reference is autograd, one sample at a time, in float64, behind the same logits: a logit of 100 has lost its fifth
digit in float32 before the entropy sees it, and the entropy's gradient is exponential in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gradient_norms import resnet18
from benchmarks.measure import Figure
from lplgrad.acquisition import select
from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms

NAME = "precision"


def run(quick: bool) -> Iterator[Figure]:
    """Largest relative errors, and how many of the highest scores are the same ones."""
    torch.manual_seed(0)
    images, labels = handwritten_digits()
    networks = {"first weights": resnet18()}
    for rate in (0.005, 0.05):  # confident, and absurdly so
        networks[f"trained, 4 epochs at {rate}"] = trained(images[:200], labels[:200], 1 if quick else 4, rate)
    for setting, model in networks.items():
        checked = images[300 : 300 + (2 if quick else 64)]
        reference = in_float64(model, checked)
        candidates = images[300 : 340 if quick else 1_300]
        exact, rounded = norms(model, candidates, None), norms(model, candidates, torch.bfloat16)
        confidence = float(exact.output.softmax(dim=1).amax(dim=1).median())
        setting = f"{setting}, median confidence {confidence:.4f}"
        for case, found in (("float32", exact), ("bfloat16 contractions", rounded)):
            for kind, right in reference.items():
                error = float((getattr(found, kind)[: len(checked)] / right - 1).abs().max())
                yield Figure(NAME, setting, f"{case}, largest relative error, {kind}", "", len(checked), error)
        error = float((rounded.total / exact.total - 1).abs().max())
        yield Figure(NAME, setting, "bfloat16 contractions against float32, total", "", len(candidates), error)
        for count in (len(candidates) // 20, len(candidates) // 5):
            for kind in ("total", "sum"):
                one, other = (set(select(np.asarray(getattr(n, kind)), count).tolist()) for n in (exact, rounded))
                case = f"same among the {count} highest, {kind}"
                yield Figure(NAME, setting, case, f"of {count}", len(candidates), len(one & other))


def handwritten_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, made as large as CIFAR's images and standardised, in random order."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)[order]
    images = F.interpolate((images - images.mean()) / images.std(), size=(32, 32), mode="bilinear")
    return images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels).long()[order]


def trained(images: Tensor, labels: Tensor, epochs: int, learning_rate: float) -> nn.Module:
    """A network after some epochs of plain training."""
    model = resnet18().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def norms(model: nn.Module, images: Tensor, contractions: torch.dtype | None) -> GradientNorms:
    """The engine's norms of all images."""
    with PerSampleGradientNorms(model, contractions) as norms_of:
        parts = [norms_of(batch, entropy) for batch in torch.split(images, 16)]
    return GradientNorms.joined(parts)


def in_float64(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Both norms by autograd, one sample at a time, in float64 behind the float32 network's logits."""
    double = copy.deepcopy(model).double()
    logits = norms(model, images, None).output.double().requires_grad_()
    (slopes,) = torch.autograd.grad(entropy(logits).sum(), logits)
    total, summed = [], []
    for image, slope in zip(images.double(), slopes, strict=True):
        largest = slope.abs().max()  # divided out, since the square of a certain sample's slope is zero
        gradients = torch.autograd.grad((double(image[None]) * slope / largest).sum(), list(double.parameters()))
        each = torch.stack([g.norm() for g in gradients])
        total.append(each.norm(p=2) * largest)
        summed.append(each.sum() * largest)
    return {"total": torch.stack(total), "sum": torch.stack(summed)}
