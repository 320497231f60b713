"""What must hold on a GPU: `pytest -m gpu`.

LPLGRAD_GPU_TESTS=cpu runs the same tests on the processor, which shows that the tests themselves work.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from lplgrad.acquisition.entropy import entropy
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.machine import devices
from lplgrad.machine.leases import visible_devices
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.rounds import needs
from lplgrad.rounds.files import write_labeled
from lplgrad.rounds.loop import State, train
from lplgrad.rounds.models import build_model, initialize
from lplgrad.rounds.networks import Networks, first_networks
from lplgrad.rounds.pool import initial_labels
from lplgrad.study.settings import Augmentation, Compute, Model, Normalization, Recipe, Training
from tests.conftest import small_images
from tests.gradient_norms.test_gradient_norms import oracle
from tests.machine.test_fork_server import Owner

ON_CPU = os.environ.get("LPLGRAD_GPU_TESTS") == "cpu"
DEVICE: Literal["cpu", "cuda"] = "cpu" if ON_CPU else "cuda"
HOME = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not ON_CPU and not torch.cuda.is_available(), reason="torch sees no GPU"),
]
only_gpu = pytest.mark.skipif(ON_CPU, reason="needs a real GPU")

# The smallest networks that CUDA's deterministic and channels-last kernels see in a study, and the real one.
MODELS = {
    "resnet18 cifar": Model(width=16),
    "resnet18 imagenet": Model(stem="imagenet", width=16),
    "small_resnet": Model(name="small_resnet", width=16),
    "resnet18 full": Model(),
}
RECIPES = {
    "plain": Recipe(),
    "attached": Recipe(auxiliary=True, detach_after=1),
    "detached": Recipe(auxiliary=True, detach_after=0),
}
TRAINING = Training(epochs=3, batch_size=16, learning_rate=0.02, milestones=[2])
NORMALIZATION = Normalization(mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The device, set up as for a job; torch's settings are as before afterwards."""
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    yield devices.set_up(Compute(device=DEVICE))
    torch.set_deterministic_debug_mode(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.set_num_threads(before[2])


def some_images(count: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Images whose class shows in their brightness, uint8, (count, side, side, 3), and their labels."""
    images = small_images(count, seed=1, side=side, channels=3)
    return torch.from_numpy(np.array(images.images)), torch.from_numpy(np.array(images.labels))


def trained(
    model: Model,
    recipe: Recipe,
    device: torch.device,
    precision: str = "float32",
    begin: Callable[[State], None] = lambda state: None,
    side: int = 32,
) -> tuple[Networks, list[float]]:
    """Networks after a short training, and the losses of its epochs."""
    images, labels = some_images(40, side)
    networks = first_networks(model, 3, 4, recipe.auxiliary, 1, 1).to(device)
    streams = (stream(1, Purpose.BATCHES, 1), stream(1, Purpose.AUGMENTATION, 1))
    augmentation = Augmentation(horizontal_flip=True, crop_padding=4)
    steps = train(
        networks, images.to(device), labels.to(device), TRAINING, recipe, augmentation, NORMALIZATION, *streams,
        precision, begin,
    )  # fmt: skip
    with devices.tf32(precision == "tf32"):
        return networks, [epoch.loss for epoch in steps]


def weights(networks: Networks) -> dict[str, bytes]:
    """The bytes of all tensors of networks, by name."""
    return {
        f"{name}.{key}": value.detach().cpu().contiguous().numpy().tobytes()
        for name, network in networks.named().items()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_two_trainings_give_the_same_bytes(device: torch.device, model: str, recipe: str) -> None:
    runs = [trained(MODELS[model], RECIPES[recipe], device) for _ in range(2)]
    assert weights(runs[0][0]) == weights(runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_every_precision_trains_and_repeats_its_bytes(device: torch.device, precision: str) -> None:
    (one, losses), (other, _) = (trained(Model(), RECIPES["attached"], device, precision) for _ in range(2))
    assert weights(one) == weights(other)
    exact, exact_losses = trained(Model(), RECIPES["attached"], device)
    assert losses[0] == pytest.approx(exact_losses[0], rel=0.05 if precision == "bfloat16" else 0.01)
    if not (ON_CPU and precision == "tf32"):
        assert (weights(one) == weights(exact)) == (precision == "float32"), "another precision rounds differently"


def test_first_epoch_agrees_with_the_processor(device: torch.device) -> None:
    """The same weights, images, order and augmentation: only rounding differs."""
    for recipe in RECIPES.values():
        _, on_gpu = trained(MODELS["resnet18 cifar"], recipe, device)
        _, on_cpu = trained(MODELS["resnet18 cifar"], recipe, torch.device("cpu"))
        assert on_gpu[0] == pytest.approx(on_cpu[0], rel=1e-3)


def test_a_training_at_224_pixels(device: torch.device) -> None:
    networks, losses = trained(Model(stem="imagenet"), RECIPES["attached"], device, side=224)
    assert np.isfinite(losses).all()
    assert weights(networks) == weights(trained(Model(stem="imagenet"), RECIPES["attached"], device, side=224)[0])


def float_images(count: int, side: int, device: torch.device) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=draw).to(device)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Make it an error that the host waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_the_steps_of_an_epoch_do_not_wait_for_the_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = (tensor.to(device) for tensor in some_images(40))
    networks = first_networks(Model(width=16), 3, 4, True, 1, 1).to(device)
    steps = ExitStack()  # from the first forward pass to the reading of the losses after the last step
    seen: list[str] = []

    def begins(inputs: Tensor, forward: Callable[[Tensor], Any] = networks.model.stages) -> Any:
        if not seen:
            seen.append("begins")
            steps.enter_context(no_waiting(device))
        return forward(inputs)

    def ends(self: Tensor, tolist: Callable[[Tensor], Any] = torch.Tensor.tolist) -> Any:
        seen.append("ends")
        steps.close()
        return tolist(self)

    monkeypatch.setattr(networks.model, "stages", begins)
    monkeypatch.setattr(torch.Tensor, "tolist", ends)
    streams = (stream(1, Purpose.BATCHES, 1), stream(1, Purpose.AUGMENTATION, 1))
    recipe, augmentation = RECIPES["attached"], Augmentation(horizontal_flip=True, crop_padding=4)
    next(train(networks, images, labels, TRAINING, recipe, augmentation, NORMALIZATION, *streams))
    steps.close()
    assert seen == ["begins", "ends"]


@pytest.mark.parametrize(
    ("model", "side", "count"), [(name, 32, 6) for name in MODELS] + [("resnet18 imagenet", 224, 3)]
)
def test_norms_are_those_of_autograd_in_float64(device: torch.device, model: str, side: int, count: int) -> None:
    """Float32 has 24 bits; a sum of squares over millions of products keeps five digits of them."""
    network = build_model(MODELS[model], 3, 10)
    initialize(network, torch.Generator().manual_seed(1))
    network.to(device).eval()
    images = float_images(count, side, device)
    with PerSampleGradientNorms(network) as norms:
        found = norms(images, entropy)
    total, summed = oracle(network.double(), images.double(), entropy)
    torch.testing.assert_close(found.total.double(), total, rtol=5e-5, atol=0)
    torch.testing.assert_close(found.sum.double(), summed, rtol=1e-4, atol=0)


def test_norms_are_the_same_twice_and_in_halves(device: torch.device) -> None:
    network = first_networks(Model(), 3, 10, False, 1, 1).model.to(device).eval()
    images = float_images(64, 32, device)
    with PerSampleGradientNorms(network) as norms:
        whole, again = norms(images, entropy), norms(images, entropy)
        halves = [norms(part, entropy).total for part in images.split(32)]
    assert torch.equal(whole.total, again.total)
    torch.testing.assert_close(torch.cat(halves), whole.total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_query_halves_its_batch_when_memory_runs_out(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    networks = first_networks(Model(width=16), 3, 10, False, 1, 1).to(device)
    images, sizes = float_images(32, 32, device), []
    expected = needs.gradient_norms(networks, entropy, [images]).total
    call = PerSampleGradientNorms.__call__

    def short(self: PerSampleGradientNorms, inputs: Tensor, *arguments: Any) -> Any:
        sizes.append(len(inputs))
        if len(sizes) <= failures:
            if device.type == "cuda":
                torch.empty(2**50, device=device)  # raises PyTorch's own error
            raise torch.OutOfMemoryError("out of memory")
        return call(self, inputs, *arguments)

    monkeypatch.setattr(PerSampleGradientNorms, "__call__", short)
    found = needs.gradient_norms(networks, entropy, [images]).total
    assert sizes[: failures + 1] == [32 // 2**halved for halved in range(failures + 1)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


# Commands, each in a process of its own, because CUDA starts once in a process.

SETTINGS = ["model.width=16", "training.batch_size=16", "training.learning_rate=0.02", "training.milestones=[]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a prepared data set and a labelled set."""
    images = partial(small_images, side=32, channels=3)
    write_dataset(tmp_path / "data", Prepared(images(120, 1), images(40, 2), ["a", "b", "c", "d"], {}))
    write_labeled(tmp_path / "labeled.csv", initial_labels(120, 40, 1))
    return tmp_path


def training(output: str, *settings: str, epochs: int = 3) -> list[str]:
    arguments = ["train", "--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1"]
    given = [*SETTINGS, f"training.epochs={epochs}", f"compute.device={DEVICE}", *settings]
    return [*arguments, "--settings", *given, "--output", output]


def query(output: str, checkpoint: str, function: str = "gradient_norm") -> list[str]:
    arguments = ["query", "--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1"]
    given = [f"acquisition={function}", "query_size=8", "candidates=60", f"compute.device={DEVICE}"]
    return [
        *arguments,
        "--checkpoint",
        f"{checkpoint}/checkpoint.safetensors",
        "--settings",
        *given,
        "--output",
        output,
    ]


def start(folder: Path, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    paths = filter(None, [str(HOME / "src"), os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        [sys.executable, "-m", "lplgrad", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )  # fmt: skip


def run(folder: Path, arguments: list[str], status: int = 0, **environment: str) -> str:
    """Return the log of a command."""
    with start(folder, arguments, **environment) as process:
        _, log = process.communicate(timeout=300)
    assert process.returncode == status, log
    return log


def files(folder: Path) -> dict[str, bytes]:
    """The results of a round, without times and progress."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not re.search("timing|progress", file.name)}


@pytest.mark.parametrize("function", ["gradient_norm", "entropy", "coreset", "predicted_loss"])
def test_a_round_gives_the_same_bytes_twice(folder: Path, function: str) -> None:
    for name in ("one", "other"):
        run(folder, training(name, "recipe.auxiliary=true"))
        run(folder, query(name, name, function))
    assert files(folder / "one") == files(folder / "other")
    scores = pd.read_csv(folder / "one/scores.csv")
    assert len(scores) == 60
    assert scores["selected"].sum() == 8
    device = json.loads((folder / "one/timing.json").read_text())["device"]
    assert ON_CPU or device == torch.cuda.get_device_name()


def test_a_forked_job_gives_the_same_bytes(folder: Path) -> None:
    run(folder, training("new"))
    run(folder, query("new", "new"))
    with Owner(folder) as owner:
        for arguments in (training("forked"), query("forked", "forked")):
            status, log = owner.run(*arguments)
            assert status == 0, log
            assert "no fork server" not in log
    assert files(folder / "new") == files(folder / "forked")


def test_a_killed_training_resumes_and_ends_with_the_same_bytes(folder: Path) -> None:
    run(folder, training("whole", "recipe.auxiliary=true", epochs=40))
    arguments = [*training("killed", "recipe.auxiliary=true", epochs=40), "--progress-seconds", "0"]
    with start(folder, arguments) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 5/"):
                process.send_signal(signal.SIGKILL)
                break
    assert "continuing after epoch" in run(folder, arguments)
    assert files(folder / "whole") == files(folder / "killed")


def test_a_model_is_observed(folder: Path) -> None:
    run(folder, training("one"))
    arguments = ["observe", "--data", "data", "--labeled", "labeled.csv", "--seed", "1", "--output", "one"]
    settings = ["--settings", "embedded_images=20", "unlabeled_images=20", f"compute.device={DEVICE}"]
    run(folder, [*arguments, "--checkpoint", "one/checkpoint.safetensors", *settings])
    assert np.isfinite(np.load(folder / "one/features.npy")).all()


@only_gpu
def test_a_batch_that_does_not_fit_is_one_line(folder: Path) -> None:
    """The test's process takes the memory, and the job finds what is left."""
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - 1500 * 2**20), dtype=torch.uint8, device="cuda")
    images = partial(small_images, side=224, channels=3)
    write_dataset(folder / "large", Prepared(images(400, 1), images(8, 2), ["a", "b", "c", "d"], {}))
    arguments = training("one", "training.batch_size=256", "model.width=64", "model.stem=imagenet")
    arguments[2] = "large"
    log = run(folder, arguments, status=1)
    del taken
    torch.cuda.empty_cache()
    errors = [line for line in log.splitlines() if line.startswith("lplgrad train: error: ")]
    assert len(errors) == 1, log
    assert "out of memory" in errors[0]
    assert "Traceback" not in log


@only_gpu
class TestLeases:
    def test_the_listed_cards_are_those_of_torch(self) -> None:
        named = visible_devices()
        assert len(named) == torch.cuda.device_count()
        uuids = {str(torch.cuda.get_device_properties(k).uuid) for k in range(len(named))}
        assert {name.removeprefix("GPU-") for name in named} == uuids

    @pytest.mark.parametrize("by", ["index", "uuid"])
    def test_a_named_card_is_used(self, folder: Path, by: str) -> None:
        card = visible_devices()[0]
        log = run(folder, training("one"), CUDA_VISIBLE_DEVICES="0" if by == "index" else card)
        assert f"GPU {card} is leased" in log

    @pytest.mark.parametrize("together", [1, 2])
    def test_jobs_on_a_card(self, folder: Path, together: int) -> None:
        """The second of two jobs waits, or not, until the first one has ended."""
        card = visible_devices()[0]
        shared = ["--jobs-per-gpu", str(together)]
        first = start(folder, [*training("one", epochs=100_000), *shared], CUDA_VISIBLE_DEVICES=card)
        assert first.stderr is not None
        while not first.stderr.readline().startswith("epoch 2/"):
            pass
        second = start(folder, [*training("two", epochs=2), *shared], CUDA_VISIBLE_DEVICES=card)
        assert second.stderr is not None
        if together == 1:
            while "waiting for a GPU" not in second.stderr.readline():
                pass
            time.sleep(2)
            assert second.poll() is None
            first.kill()
        _, log = second.communicate(timeout=120)
        assert second.returncode == 0, log
        first.kill()
        first.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
def test_a_study(tmp_path: Path, together: int) -> None:
    """Through Snakemake, with the fork server, one or two jobs on a card."""
    study = (HOME / "tests/tiny.yaml").read_text()
    (tmp_path / "study.yaml").write_text(f"{study}\ncompute: {{device: {DEVICE}, jobs_per_gpu: {together}}}\n")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(HOME / "Snakefile"),
        "--cores",
        "4",
        "--configfile",
        "study.yaml",
    ]
    target = "results/tiny/measurements.csv"
    done = subprocess.run(
        [*command, "--until", "measurements"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / target).exists()
    logs = list((tmp_path / "logs").rglob("train.log"))
    assert logs
    assert not [log for log in logs if "no fork server" in log.read_text()]
    assert ON_CPU or all("is leased" in log.read_text() for log in logs)
