"""What training costs, beside the plain recipe: a DataLoader, PIL transforms, contiguous float32, PyTorch's SGD.

ResNet-18 in its CIFAR form, 32x32, crops and flips; one batch of 128 a turn, the cases taking turns. Where there is a
GPU it is measured there, and one to four processes that share it as well. Ratios are how many times longer a case takes
than the plain recipe: below one is faster.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import Figure, OwnProcess, figures, interleave, matrix_products, operations
from lplgrad.machine import devices
from lplgrad.machine.randomness import stream
from lplgrad.modalities import image
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import build, first_weights, to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.loop import Epoch, train
from lplgrad.study.settings import BackboneRow, Compute, Normalization, RecipeRow, Training

NAME = "training"
BATCH = 128
REFERENCE = "plain recipe, float32"
AUGMENTATION = image.Augmentation(horizontal_flip=True, crop_padding=4)
NORMALIZATION = Normalization(mean=[0.5] * 3, std=[0.25] * 3)
PLAIN, JOINT = RecipeRow(trains="plain"), RecipeRow(trains="joint")
DETACHED = RecipeRow.model_validate({"trains": "joint", "detach_after": 0})


def run(quick: bool) -> Iterator[Figure]:
    """Milliseconds an image in every precision and recipe, what sharing a GPU brings, and seconds against labels."""
    device = devices.set_up(Compute(threads=torch.get_num_threads()))
    gpu = device.type == "cuda"
    count = BATCH * (100 if gpu else 1)
    images, labels = made_up(count)
    cases: dict[str, Callable[[], object] | OwnProcess] = {}
    total = operations_of_an_epoch(count)
    precisions = ("float32", *(["tf32"] if gpu else []), "bfloat16")
    for precision in precisions:
        cases[f"plain, {precision}"] = epoch(images, labels, device, precision, PLAIN)
        cases[f"joint, attached, {precision}"] = epoch(images, labels, device, precision, JOINT)
    cases["joint, detached, float32"] = epoch(images, labels, device, "float32", DETACHED, before=1)
    for layout, memory_format in (("channels-last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        cases[f"both passes alone, float32, {layout}"] = passes(images, labels, device, memory_format)
    for dtype in (torch.float32, torch.bfloat16):
        case = f"as many operations in matrix products, {str(dtype).removeprefix('torch.')}"
        cases[case] = matrix_products(total, dtype, device)
    setting = f"ResNet-18, 32x32, batch {BATCH}, {'GPU' if gpu else 'CPU'}"
    with closing(OwnProcess(plain_recipe, count)) as recipe:
        seconds = interleave({REFERENCE: recipe, **cases}, 2 if quick else 7)
    each = {case: [1e3 * value / count for value in values] for case, values in seconds.items()}
    yield from figures(NAME, setting, each, "ms an image", REFERENCE)
    pairs = [("joint beside plain", f"plain, {one}", f"joint, attached, {one}") for one in precisions]
    layouts = [f"both passes alone, float32, {layout}" for layout in ("contiguous", "channels-last")]
    for what, reference, case in (*pairs, ("channels-last beside contiguous", *layouts)):
        pair = {name: each[name] for name in (reference, case)}
        yield figures(NAME, f"{setting}: {what}", pair, "ms an image", reference)[1]
    yield from against_labels(quick)
    if gpu:
        yield from shared(precisions, BATCH * 50)


def operations_of_an_epoch(count: int) -> int:
    """Floating-point operations of the convolutions and products that a model's training takes for ``count`` images."""
    model = learner_of("resnet18").model
    return operations(lambda: model(torch.zeros(2, 3, 32, 32)).sum().backward()) * count // 2


def learner_of(backbone: str, recipe: RecipeRow = PLAIN) -> Learner:
    """A learner of ten classes with first weights, on the CPU."""
    row = BackboneRow(name=backbone)
    return first_weights(build(row, recipe, (3, 32, 32), 10), row, partial(stream, 1, round_number=1))


def steps_of(
    learner: Learner, images: torch.Tensor, labels: torch.Tensor, device: torch.device, precision: str = "float32"
) -> Iterator[Epoch]:
    """The program's own training, an epoch a step."""
    training = Training(epochs=1_000, milestones=[], batch_size=BATCH, learning_rate=0.01)
    examples = images.to(device), labels.to(device)
    view = image.view(AUGMENTATION, NORMALIZATION.mean, NORMALIZATION.std, (32, 32, 3), device)
    draws = Draws(*examples, BATCH, view, partial(stream, 1, round_number=1))
    return train(to_device(learner, device), draws, training, precision)


def made_up(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, uint8, shape (count, 32, 32, 3), and labels."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw)
    return images, torch.randint(0, 10, (count,), generator=draw)


def epoch(
    images: torch.Tensor, labels: torch.Tensor, device: torch.device, precision: str, recipe: RecipeRow, before: int = 0
) -> Callable[[], object]:
    """The program's own training, an epoch a call; the first ``before`` + 1 epochs are those of an attached module."""
    steps = steps_of(learner_of("resnet18", recipe), images, labels, device, precision)
    for _ in range(before):
        next(steps)

    def case() -> None:
        with devices.tf32(precision == "tf32"):
            next(steps)  # its totals are read, so a GPU's queue is empty

    return case


def passes(
    images: torch.Tensor, labels: torch.Tensor, device: torch.device, memory_format: torch.memory_format
) -> Callable[[], object]:
    """Forward and backward passes over images in a memory format, without augmentation and optimiser."""
    network = learner_of("resnet18").model.train()
    model = network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    inputs = (images.to(device).permute(0, 3, 1, 2) / 255).contiguous(memory_format=memory_format)
    batches = list(zip(inputs.split(BATCH), labels.to(device).split(BATCH), strict=True))

    def case() -> None:
        for batch, target in batches:
            model.zero_grad()
            F.cross_entropy(model(batch), target).backward()

    return case


def plain_recipe(count: int) -> Callable[[], object]:
    """As most code bases do it: an epoch over ``count`` images a call."""
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std),
        ]
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = made_up(count)
    array, targets = images.numpy(), labels.tolist()

    class Photographs(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(array)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(array[index])), targets[index]

    workers = 4 if device.type == "cuda" else 0
    loader = torch.utils.data.DataLoader(
        Photographs(), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model: nn.Module = learner_of("resnet18").model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def case() -> None:
        for batch, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch.to(device)), target.to(device)).backward()
            optimizer.step()

    return case


def against_labels(quick: bool) -> Iterator[Figure]:
    """Seconds of an epoch against the number of labels; linear where seconds a label are the same."""
    device = devices.set_up(Compute(threads=torch.get_num_threads()))
    cases: dict[str, Callable[[], object]] = {}
    sizes = (128, 256, 512, 1024)
    for size in sizes:
        images, labels = made_up(size)
        steps = steps_of(learner_of("small_resnet"), images, labels, device)
        cases[f"{size} labels"] = lambda steps=steps: next(steps)  # type: ignore[misc]
    seconds = interleave(cases, 2 if quick else 7)
    setting = f"small_resnet, 32x32, an epoch against labels, {device.type}"
    yield from figures(NAME, setting, seconds, "s", f"{sizes[0]} labels")


def shared(precisions: Sequence[str], count: int) -> Iterator[Figure]:
    """Images a second of one to four processes that share a GPU, together, beside as many of the plain recipe."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        for case in (*precisions, REFERENCE):
            # Not context.Pool: its processes cannot start those of a DataLoader.
            with ProcessPoolExecutor(4, context) as pool:
                for jobs in (1, 2, 3, 4):
                    barrier = manager.Barrier(jobs, timeout=300)
                    rates = list(pool.map(_share, [barrier] * jobs, [case] * jobs, [count] * jobs))
                    setting = f"ResNet-18, 32x32, one GPU shared, {case}"
                    yield Figure(NAME, setting, f"{jobs} jobs at a time, together", "images/s", jobs, sum(rates))


def _share(barrier: threading.Barrier, case: str, count: int) -> float:
    torch.set_num_threads(1)
    if case == REFERENCE:
        turn = plain_recipe(count)  # in a process of its own, so with the defaults of PyTorch
    else:
        images, labels = made_up(count)
        turn = epoch(images, labels, devices.set_up(Compute()), case, PLAIN)
    turn()
    barrier.wait()
    start = time.perf_counter()
    for _ in range(5):
        turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 5 * count / (time.perf_counter() - start)
