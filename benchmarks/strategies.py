"""What the choice of every acquisition function costs, beside what its needs cost: all functions on one page.

What a function needs is made up at random. Features, logits and representations are points around the centers of
classes. A function's own measures are taken on a few examples and repeated with noise. Each choice is made in a process
of its own, so that the peak memory is its own.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import inspect
import math
import multiprocessing
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Figure, kilobytes, seconds_of
from lplgrad import acquisition
from lplgrad.acquisition import Acquisition, Candidates, Dropout
from lplgrad.gradient_norms import GradientNorms
from lplgrad.machine import devices
from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import stream
from lplgrad.rounds.checkpoints import build, first_weights
from lplgrad.rounds.needs import measure
from lplgrad.study.settings import BackboneRow, Compute, RecipeRow

NAME = "strategies"
VARIANTS: dict[str, list[dict[str, Any]]] = {"bait": [{"form": "full"}]}  # measured beside the default options
COSTLY = ("own:", "side:", "gradient_norms", "member_logits", "stochastic_logits")  # may take more than a forward pass
MEMBERS, TENSORS, MEASURED = 5, 62, 64  # of an ensemble; parameters of ResNet-18; examples with measures of their own


class Sizes(NamedTuple):
    """The size of a query."""

    candidates: int  # S
    labeled: int  # L
    picks: int  # b
    features: int  # D
    classes: int  # C


FULL, QUICK = Sizes(50_000, 5_000, 2_500, 512, 100), Sizes(600, 60, 20, 32, 5)


class Cost(NamedTuple):
    """What a choice has cost."""

    seconds: float = math.nan
    megabytes: float | None = None  # None where they cannot be measured
    refusal: str = ""  # what the function says instead of choosing


def run(quick: bool) -> Iterator[Figure]:
    """Seconds and peak memory of the choice of each function."""
    sizes, threads = QUICK if quick else FULL, torch.get_num_threads()
    about = (
        f"{sizes.candidates:,} candidates, {sizes.labeled:,} labelled, {sizes.picks:,} picks, "
        f"{sizes.features} features, {sizes.classes} classes, {'GPU' if torch.cuda.is_available() else 'CPU'}"
    )
    for name in acquisition.registry.names():
        for given in [{}, *VARIANTS.get(name, [])]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                cost = pool.apply(cost_of, (name, given, sizes, threads))
            case = " ".join([name, *(f"{key}={value}" for key, value in given.items())])
            note = f"refused: {cost.refusal}" if cost.refusal else f"needs: {needs_in_words(name, given)}"
            yield Figure(NAME, f"seconds of the choice, {about}", case, "s", 1, cost.seconds, note=note)
            if cost.megabytes is not None:
                yield Figure(NAME, f"peak memory of the choice, {about}", case, "MB", 1, cost.megabytes)


def needs_in_words(name: str, given: Mapping[str, Any]) -> str:
    """What it takes to measure a function's needs: as its module says after "Cost:", or from their names."""
    module = importlib.import_module(f"lplgrad.acquisition.{name}")
    for paragraph in (inspect.getdoc(module) or "").split("\n\n"):
        if paragraph.startswith("Cost: "):
            return " ".join(paragraph.removeprefix("Cost: ").removesuffix(".").split())
    function = acquisition.registry.load(name)
    needs = function.needs(function.options(**given)).keys()
    passes = [need for need in needs if need.rpartition(":")[2] not in ("labels", "representation")]
    if any(need.removeprefix("labeled:").removeprefix("pool:").startswith(COSTLY) for need in passes):
        return "its module does not say"
    if not passes:
        return "no pass, if the data set has a representation" if needs else "no pass"
    others = " and labelled example" if any(need.startswith("labeled:") for need in passes) else ""
    return f"one forward pass per candidate{others}"


def cost_of(name: str, given: Mapping[str, Any], sizes: Sizes, threads: int) -> Cost:
    """Choose once, in a process that does nothing else, after a choice among a few."""
    device = devices.set_up(Compute(threads=threads))
    function = acquisition.registry.load(name)
    options = function.options(**given)
    few = QUICK._replace(features=sizes.features, classes=sizes.classes)
    with suppress(UserError):
        acquisition.choice_of(function, made_up(function, options, few, device), options)
    candidates = made_up(function, options, sizes, device)
    gc.collect()
    peak = _Peak(device)
    try:
        seconds = seconds_of(lambda: acquisition.choice_of(function, candidates, options))
    except UserError as error:
        return Cost(refusal=str(error))
    return Cost(seconds, peak.megabytes())


class _Peak:
    """The peak memory in MB, a GPU's or this process's, from now on and beside what it holds now."""

    def __init__(self, device: torch.device) -> None:
        self.gpu, self.known = device.type == "cuda", Path("/proc/self/clear_refs").exists()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif self.known:
            if platform.libc_ver()[0] == "glibc":
                ctypes.CDLL(None).malloc_trim(0)  # else freed memory is used again, and not counted
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            self.before = kilobytes("VmRSS") * 1024

    def megabytes(self) -> float | None:
        if self.gpu:
            return (torch.cuda.max_memory_allocated() - self.before) / 2**20
        return (kilobytes("VmHWM") * 1024 - self.before) / 2**20 if self.known else None


def made_up(function: Acquisition, options: Any, sizes: Sizes, device: torch.device) -> Candidates:
    """Candidates and labelled examples with random values of all that a function needs."""
    draw = torch.Generator().manual_seed(1)
    needs = dict(function.needs(options))
    measured: dict[str, Any] = {}
    for prefix, count in (("", sizes.candidates), ("labeled:", sizes.labeled), ("pool:", sizes.candidates)):
        classes = torch.randint(sizes.classes, (count,), generator=draw)
        wanted = {
            need.removeprefix(prefix): argument
            for need, argument in needs.items()
            if need.startswith(prefix) and (prefix or not need.startswith(("labeled:", "pool:")))
        }
        own = {need: argument for need, argument in wanted.items() if need.startswith("own:")}
        found: dict[str, Any] = {}
        if own:
            found = {need: _more(value, count, draw) for need, value in _measured(function, own, sizes).items()}
        for need in [need for need in wanted if need not in own]:
            found[need] = _need(need, wanted[need], classes, sizes, draw)
        measured |= {f"{prefix}{need}": _moved(value, device) for need, value in found.items()}
    return Candidates(np.arange(sizes.candidates), 1, 1, sizes.picks, measured, sizes.classes)


def _need(need: str, argument: Any, classes: Tensor, sizes: Sizes, draw: torch.Generator) -> Any:
    """Random values of a need for examples of some classes, shape (N,): those of unknown needs have shape (N,) too."""
    count = len(classes)
    if need == "labels":
        return classes
    if need in ("features", "representation"):
        centers = torch.randn(sizes.classes, sizes.features, generator=torch.Generator().manual_seed(0)) * 1.5
        spread = torch.rand(count, 1, generator=draw) * 2
        return torch.randn(count, sizes.features, generator=draw).mul_(spread).add_(centers[classes]).relu_()
    logits = torch.randn(count, sizes.classes, generator=draw)
    logits[torch.arange(count), classes] += 8 * torch.rand(count, generator=draw)
    if need == "logits":
        return logits
    if need in ("member_logits", "stochastic_logits"):
        several = argument.passes if isinstance(argument, Dropout) else MEMBERS
        return torch.randn(count, several, sizes.classes, generator=draw).add_(logits[:, None])
    if need == "gradient_norms":
        norms = torch.rand(count, TENSORS, generator=draw).double()
        total, names = norms.square().sum(dim=1).sqrt(), tuple(map(str, range(TENSORS)))
        return GradientNorms(total, norms.sum(dim=1), logits, norms, names)
    return torch.rand(count, generator=draw) + 0.5


def _measured(function: Acquisition, needs: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """A function's own measures of a few random vectors by a small network."""
    backbone = BackboneRow.model_validate({"name": "mlp", "hidden": [sizes.features]})
    learner = build(backbone, RecipeRow(trains="plain"), (sizes.features,), sizes.classes)
    learner = first_weights(learner, backbone, partial(stream, 1))
    inputs = torch.randn(MEASURED, sizes.features, generator=torch.Generator().manual_seed(0))
    found = measure(function, needs, learner, None, lambda: [inputs], MEASURED, partial(stream, 1))
    return {need: found[need] for need in needs}


def _more(value: Any, count: int, draw: torch.Generator) -> Any:
    """As many rows as asked for, like those of a quantity: copies of them with noise."""
    if isinstance(value, Mapping):
        return {name: _more(each, count, draw) for name, each in value.items()}
    rows = value[torch.randint(len(value), (count,), generator=draw)]
    if rows.is_floating_point():
        rows += torch.randn(rows.shape, generator=draw, dtype=rows.dtype) * value.std()
    return rows


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, GradientNorms):
        total, sums, output, norms = (one.to(device) for one in (value.total, value.sum, value.output, value.tensors))
        return GradientNorms(total, sums, output, norms, value.names)
    if isinstance(value, Mapping):
        return {name: _moved(each, device) for name, each in value.items()}
    return value.to(device)
