"""What must hold on a GPU: `pytest -m gpu`.

LPLGRAD_GPU_TESTS=cpu runs the same tests on the processor, which shows that the tests themselves work.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn

from lplgrad.acquisition import Slope
from lplgrad.acquisition.entropy import entropy
from lplgrad.backbones._network import Outputs
from lplgrad.backbones._residual import ResNet
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.machine import devices
from lplgrad.machine.leases import visible_devices
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner
from lplgrad.rounds import needs
from lplgrad.rounds.checkpoints import tensors_of, to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.files import write_labeled
from lplgrad.rounds.loop import State, train
from lplgrad.study.settings import BackboneRow, Compute, Normalization, RecipeRow, Training
from tests.by_hand import Call
from tests.conftest import first_labels, small_images
from tests.gradient_norms.test_gradient_norms import oracle
from tests.learners import PLAIN, joint, learner_of, view_of
from tests.machine.test_fork_server import Owner

ON_CPU = os.environ.get("LPLGRAD_GPU_TESTS") == "cpu"
DEVICE: Literal["cpu", "cuda"] = "cpu" if ON_CPU else "cuda"
HOME = Path(__file__).parents[1]
# Warnings are no errors here: builds of PyTorch for CUDA have warnings of their own.
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu"), pytest.mark.filterwarnings("default")]
only_gpu = pytest.mark.skipif(ON_CPU, reason="needs a real GPU")
# Other packages may come from PYTHONPATH too.
PYTHONPATH = os.pathsep.join(filter(None, [str(HOME / "src"), os.environ.get("PYTHONPATH")]))


def backbone(name: str = "resnet18", **options: Any) -> BackboneRow:
    return BackboneRow.model_validate({"name": name, **options})


# The smallest networks that CUDA's deterministic and channels-last kernels see in a study, and the real one.
BACKBONES = {
    "resnet18 cifar": backbone(width=16),
    "resnet18 imagenet": backbone(stem="imagenet", width=16),
    "small_resnet cifar": backbone("small_resnet"),
    "small_resnet imagenet": backbone("small_resnet", stem="imagenet"),
    "resnet18 full": backbone(),
}
NORM_BACKBONES = {
    "resnet18 cifar": backbone(),
    "resnet18 imagenet": backbone(stem="imagenet"),
    "small_resnet cifar": backbone("small_resnet"),
    "small_resnet imagenet": backbone("small_resnet", stem="imagenet"),
}
RECIPES = {"plain": PLAIN, "attached": joint(detach_after=1), "detached": joint(detach_after=0)}
TRAINING = Training(epochs=3, batch_size=16, learning_rate=0.02, milestones=[2])
OUTPUTS = ResNet.outputs
AUGMENTATION = {"horizontal_flip": True, "crop_padding": 4}


@pytest.fixture(scope="module")
def gpu() -> None:
    """Skip the tests without a GPU. CUDA is asked here, because an import must not start it."""
    if not ON_CPU and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


@pytest.fixture
def device(gpu: None) -> Iterator[torch.device]:
    """The device, set up as for a job; torch's settings are as before afterwards."""
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    fill: Any = torch.utils.deterministic
    fills = fill.fill_uninitialized_memory
    yield devices.set_up(Compute(device=DEVICE))
    fill.fill_uninitialized_memory = fills
    torch.set_deterministic_debug_mode(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.set_num_threads(before[2])


def some_images(count: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Images whose class shows in their brightness, uint8, (count, side, side, 3), and their labels."""
    images = small_images(count, seed=1, side=side, channels=3)
    return torch.from_numpy(np.array(images.inputs)), torch.from_numpy(np.array(images.labels))


def first(
    row: BackboneRow, device: torch.device, recipe: RecipeRow = PLAIN, side: int = 32, classes: int = 10
) -> Learner:
    """A learner with first weights on the device."""
    return to_device(learner_of(recipe, row, (3, side, side), classes), device)


def examples(device: torch.device, side: int, batch_size: int) -> Draws:
    """40 labelled images on the device, augmented."""
    images, labels = (tensor.to(device) for tensor in some_images(40, side))
    normalization = Normalization(mean=[0.5] * 3, std=[0.25] * 3)
    view = view_of((side, side, 3), AUGMENTATION, normalization, device)
    return Draws(images, labels, batch_size, view, partial(stream, 1, round_number=1))


def trained(
    row: BackboneRow,
    recipe: RecipeRow,
    device: torch.device,
    precision: str = "float32",
    begin: Callable[[State], None] = lambda state: None,
    side: int = 32,
    training: Training = TRAINING,
) -> tuple[Learner, list[float]]:
    """A learner after a short training, and the losses of its epochs."""
    learner = first(row, device, recipe, side, classes=4)
    steps = train(learner, examples(device, side, training.batch_size), training, precision, begin)
    with devices.tf32(precision == "tf32"):
        return learner, [epoch.means["loss"] for epoch in steps]


def weights(learner: Learner) -> dict[str, bytes]:
    """The bytes of all tensors of a learner, by name."""
    return {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in tensors_of(learner).items()}


def test_deterministic_mode_is_on_and_does_not_fill_new_memory(device: torch.device) -> None:
    assert torch.get_deterministic_debug_mode() == (0 if ON_CPU else 2)
    assert not torch.empty(1000, device=device).isnan().all()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", BACKBONES)
def test_two_trainings_give_the_same_bytes(device: torch.device, model: str, recipe: str) -> None:
    runs = [trained(BACKBONES[model], RECIPES[recipe], device) for _ in range(2)]
    assert weights(runs[0][0]) == weights(runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_every_precision_trains_and_repeats_its_bytes(device: torch.device, precision: str) -> None:
    (one, losses), (other, _) = (trained(backbone(), RECIPES["attached"], device, precision) for _ in range(2))
    assert weights(one) == weights(other)
    exact, exact_losses = trained(backbone(), RECIPES["attached"], device)
    assert losses[0] == pytest.approx(exact_losses[0], rel=0.05 if precision == "bfloat16" else 0.01)
    if not (ON_CPU and precision == "tf32"):
        assert (weights(one) == weights(exact)) == (precision == "float32"), "another precision rounds differently"


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_agrees_with_the_processor(device: torch.device, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """The same first weights, order and augmentation. Rounding alone differs, which the first step shows little of."""
    one_step = TRAINING.model_copy(update={"batch_size": 40})
    runs = []
    for place in (torch.device("cpu"), device):
        first_weights: list[dict[str, bytes]] = []
        batches: list[Tensor] = []

        def spy(model: ResNet, images: Tensor, stages: bool = False, seen: list[Tensor] = batches) -> Outputs:
            seen.append(((images.double().cpu() * 0.25 + 0.5) * 255).round())  # as before the normalisation
            return OUTPUTS(model, images, stages)

        def begin(state: State, seen: list[dict[str, bytes]] = first_weights) -> None:
            seen.append(weights(state.learner))

        monkeypatch.setattr(ResNet, "outputs", spy)
        _, losses = trained(backbone(width=16), RECIPES[recipe], place, begin=begin, training=one_step)
        runs.append((first_weights, torch.stack(batches), losses))
    (weights_cpu, batches_cpu, losses_cpu), (weights_gpu, batches_gpu, losses_gpu) = runs
    assert weights_cpu == weights_gpu
    assert torch.equal(batches_cpu, batches_gpu)
    assert losses_gpu[0] == pytest.approx(losses_cpu[0], rel=1e-4)
    assert losses_gpu == pytest.approx(losses_cpu, rel=1e-2)


def test_a_training_at_224_pixels(device: torch.device) -> None:
    learner, losses = trained(backbone(stem="imagenet"), RECIPES["attached"], device, side=224)
    assert np.isfinite(losses).all()
    assert weights(learner) == weights(trained(backbone(stem="imagenet"), RECIPES["attached"], device, side=224)[0])


def float_images(count: int, side: int, device: torch.device) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=draw).to(device)


@contextmanager
def waiting(mode: Literal["warn", "error"], device: torch.device) -> Iterator[None]:
    """Make it a warning or an error that the host waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_the_steps_of_an_epoch_do_not_wait_for_the_gpu(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = first(backbone(width=16), device, RECIPES["attached"], classes=4)
    steps = ExitStack()  # from the first forward pass to the reading of the losses after the last step
    seen: list[str] = []

    def begins(inputs: Tensor, stages: bool = False, real: Callable[..., Outputs] = learner.model.outputs) -> Outputs:
        if not seen:
            seen.append("begins")
            steps.enter_context(waiting("error", device))
        return real(inputs, stages)

    def ends(self: Tensor, tolist: Callable[[Tensor], Any] = torch.Tensor.tolist) -> Any:
        seen.append("ends")
        steps.close()
        return tolist(self)

    monkeypatch.setattr(learner.model, "outputs", begins)
    monkeypatch.setattr(torch.Tensor, "tolist", ends)
    draws = examples(device, 32, TRAINING.batch_size)
    with steps:
        next(train(learner, draws, TRAINING))
    assert seen == ["begins", "ends"]


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("model", NORM_BACKBONES)
def test_norms_are_those_of_autograd_in_float64(device: torch.device, model: str, side: int) -> None:
    """PyTorch's own float32, one sample at a time, errs too: by the kernels that cuDNN chooses, and where rounding
    turns a ReLU over. TensorFloat-32 would err by 1e-3, and must not pass."""
    network = first(NORM_BACKBONES[model], device, side=side).model.eval()
    images = float_images(6 if side == 32 else 3, side, device)
    found = []
    for contractions in (None, torch.bfloat16):
        with PerSampleGradientNorms(network, contractions) as norms:
            found.append(norms(images, entropy))
    single = oracle(network, images, entropy)
    exact = oracle(network.double(), images.double(), entropy)
    permitted = max(1e-5, 2 * largest_error(single, exact))
    assert permitted < 1e-4
    assert largest_error((found[0].total, found[0].sum), exact) < permitted
    assert largest_error((found[1].total, found[1].sum), exact) < 1e-3


def test_norms_of_parameters_that_are_computed_one_by_one(device: torch.device) -> None:
    """Attention draws no random numbers in eval mode, which would be refused."""
    torch.manual_seed(0)
    layers = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), nn.PReLU(), nn.Flatten(), nn.Linear(80, 4)
    network = nn.Sequential(*layers).to(device).eval()
    inputs = torch.randn(3, 5, 16, device=device)
    with PerSampleGradientNorms(network, fallback=True) as norms_of:
        norms = norms_of(inputs, entropy)
    exact = oracle(network.double(), inputs.double(), entropy)
    assert largest_error((norms.total, norms.sum), exact) < 1e-4


def largest_error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """The largest relative error."""
    return max(float((one / other - 1).abs().max()) for one, other in zip(found, exact, strict=True))


def test_a_batch_of_norms_waits_for_the_gpu_once(device: torch.device) -> None:
    network = first(backbone(), device).model.eval()
    images = float_images(8, 32, device)
    with PerSampleGradientNorms(network) as norms, warnings.catch_warnings(record=True) as caught:
        norms(images, entropy)
        warnings.simplefilter("always")
        with waiting("warn", device):
            norms(images, entropy)
    assert sum("called a synchronizing" in str(warning.message) for warning in caught) == (0 if ON_CPU else 1)


def test_norms_are_the_same_twice_and_in_halves(device: torch.device) -> None:
    network = first(backbone(), device).model.eval()
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
    learner = first(backbone(width=16), device)
    images, sizes = float_images(32, 32, device), []
    expected = needs.gradient_norms(learner, Slope(entropy), [images], len(images)).total
    call = PerSampleGradientNorms.__call__

    def short(self: PerSampleGradientNorms, inputs: Tensor, *arguments: Any) -> Any:
        sizes.append(len(inputs))
        if len(sizes) <= failures:
            if device.type == "cuda":
                torch.empty(2**50, device=device)  # raises PyTorch's own error
            raise torch.OutOfMemoryError("out of memory")
        return call(self, inputs, *arguments)

    monkeypatch.setattr(PerSampleGradientNorms, "__call__", short)
    found = needs.gradient_norms(learner, Slope(entropy), [images], len(images)).total
    assert sizes[: failures + 1] == [32 // 2**halved for halved in range(failures + 1)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@only_gpu
def test_a_query_that_needs_more_than_the_cards_memory_halves_its_batch(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = first(backbone(), device)
    images, sizes = float_images(128, 32, device), []
    call = PerSampleGradientNorms.__call__

    def spy(self: PerSampleGradientNorms, inputs: Tensor, *arguments: Any) -> Any:
        sizes.append(len(inputs))
        return call(self, inputs, *arguments)

    monkeypatch.setattr(PerSampleGradientNorms, "__call__", spy)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    expected = needs.gradient_norms(learner, Slope(entropy), [images], len(images)).total
    assert sizes == [128]
    needed, card = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(needed / 2 / card)
    try:
        found = needs.gradient_norms(learner, Slope(entropy), [images], len(images)).total
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert sizes[1:3] == [128, 64]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


# Commands: in this process, where no lease is taken, or each in a process of its own.

SETTINGS = [
    "backbone.name=resnet18",
    "backbone.width=16",
    "training.batch_size=16",
    "training.learning_rate=0.02",
    "training.milestones=[]",
    "augmentation.horizontal_flip=true",
    "augmentation.crop_padding=4",
]
INPUTS = ["--data", "data", "--labeled", "labeled.csv", "--seed", "1"]
LONGEST = 120  # seconds of a process
_started: list[tuple[subprocess.Popen[str], threading.Timer]] = []


def write_data(folder: Path, side: int = 32) -> None:
    """Write a prepared data set and a labelled set."""
    images = partial(small_images, side=side, channels=3)
    write_dataset(folder / "data", Prepared(images(120, 1), images(40, 2), ["a", "b", "c", "d"], {}))
    write_labeled(folder / "labeled.csv", first_labels(120, 40))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to run commands in. In the end all processes are killed: an orphan would keep its lease."""
    write_data(tmp_path)
    yield tmp_path
    for process, timer in _started:
        timer.cancel()
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    _started.clear()


@pytest.fixture
def command(
    device: torch.device, folder: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str]], str]:
    """Run a command in this process and return its log. A lease would last until the end of all tests."""
    monkeypatch.setattr("lplgrad.rounds.round.lease_gpu", lambda *_: None)
    monkeypatch.chdir(folder)

    def call(arguments: list[str]) -> str:
        status, log = lplgrad(*arguments)
        assert status == 0, log
        return log

    return call


def training(output: str, *settings: str, epochs: int = 3, device: str = DEVICE) -> list[str]:
    words = [*SETTINGS, f"training.epochs={epochs}", f"compute.device={device}", *settings]
    given = dict(word.split("=") for word in words)  # the last of a key counts
    return ["train", *INPUTS, "--round", "1", "--output", output, "--settings", *map("=".join, given.items())]


def query(output: str, trained: str, function: str = "gradient_norm") -> list[str]:
    given = [f"acquisition={function}", "query_size=40", "candidates=60", f"compute.device={DEVICE}"]
    inputs = [*INPUTS, "--round", "1", "--checkpoint", f"{trained}/checkpoint.safetensors"]
    return ["query", *inputs, "--output", output, "--settings", *given]


def start(
    folder: Path, arguments: list[str], program: Sequence[str] = ("-m", "lplgrad"), **environment: str
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *program, *arguments], cwd=folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment},
    )  # fmt: skip
    timer = threading.Timer(LONGEST, process.kill)
    timer.start()
    _started.append((process, timer))
    return process


def log_until(process: subprocess.Popen[str], words: str) -> None:
    """Read a command's log up to some words."""
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        if words in line:
            return
    pytest.fail(f"ended without {words!r}:\n{''.join(log)}")


def run(
    folder: Path, arguments: list[str], status: int = 0, program: Sequence[str] = ("-m", "lplgrad"), **environment: str
) -> str:
    """Run a command in a process of its own and return its log."""
    process = start(folder, arguments, program, **environment)
    _, log = process.communicate()
    assert process.returncode == status, log
    return log


def files(folder: Path) -> dict[str, bytes]:
    """All results, without times and progress."""
    found = [file for file in folder.rglob("*") if file.is_file() and not re.search("timing|progress", file.name)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


@pytest.mark.parametrize("init", ["warm", "fresh"])
def test_two_rounds_give_the_same_bytes_twice(
    command: Callable[[list[str]], str], folder: Path, init: str, device: torch.device
) -> None:
    recipe = ["recipe.trains=joint", f"recipe.init={init}"]
    for name in ("one", "other"):
        command(training(f"{name}/trained", *recipe))
        for function in ("gradient_norm", "entropy", "coreset", "predicted_loss"):
            command(query(f"{name}/{function}", f"{name}/trained", function))
            scores = pd.read_csv(f"{name}/{function}/scores.csv")
            assert (len(scores), scores["pick"].max(), scores["pick"].count()) == (60, 40, 40)
        second = training(f"{name}/again", *recipe)
        second[second.index("--round") + 1] = "2"
        second[second.index("labeled.csv")] = f"{name}/gradient_norm/next_labeled.csv"
        command([*second, *(["--checkpoint", f"{name}/trained/checkpoint.safetensors"] if init == "warm" else [])])
    assert files(folder / "one") == files(folder / "other")
    assert len(files(folder / "one")) > 20
    assert torch.get_deterministic_debug_mode() == (2 if device.type == "cuda" else 0)
    if device.type == "cuda":
        for timing in (folder / "one").rglob("*timing.json"):
            assert json.loads(timing.read_text())["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_queries_and_evaluation_are_in_float32(
    command: Callable[[list[str]], str], device: torch.device, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    seen = set()

    def spy(model: ResNet, images: Tensor, stages: bool = False) -> Outputs:
        tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        seen.add((model.training, *tf32, torch.is_autocast_enabled(device.type)))
        return OUTPUTS(model, images, stages)

    monkeypatch.setattr(ResNet, "outputs", spy)
    command(training("one", f"compute.precision={precision}"))
    command(query("one", "one"))
    assert seen == {(True, precision == "tf32", False, precision == "bfloat16"), (False, False, False, False)}


def test_a_forked_job_gives_the_same_bytes(command: Callable[[list[str]], str], folder: Path) -> None:
    command(training("here"))
    command(query("here", "here"))
    with Owner(folder) as owner:
        for arguments in (training("forked"), query("forked", "forked")):
            status, log = owner.run(*arguments)
            assert status == 0, log
            assert "no fork server" not in log
    assert files(folder / "here") == files(folder / "forked")


def test_a_killed_training_resumes_and_ends_with_the_same_bytes(
    command: Callable[[list[str]], str], folder: Path
) -> None:
    command(training("whole", "recipe.trains=joint", epochs=40))
    arguments = [*training("killed", "recipe.trains=joint", epochs=40), "--progress-seconds", "0"]
    process = start(folder, arguments)
    log_until(process, "epoch 5/")
    process.kill()
    process.communicate()
    assert not (folder / "killed/metrics.json").exists()
    assert "continuing after epoch" in command(arguments)
    assert files(folder / "whole") == files(folder / "killed")


@pytest.mark.parametrize("side", [32, 224])
def test_every_command_of_a_round(command: Callable[[list[str]], str], folder: Path, side: int) -> None:
    write_data(folder, side)
    command(training("one", *(["backbone.stem=imagenet"] if side == 224 else [])))
    command(query("one", "one"))
    settings = ["embedded_images=20", "unlabeled_images=20", f"compute.device={DEVICE}"]
    inputs = [*INPUTS, "--checkpoint", "one/checkpoint.safetensors", "--output", "one"]
    command(["observe", *inputs, "--settings", *settings])
    assert np.load(folder / "one/features.npy").shape == (20, 128)
    for name in ("scores.csv", "observed.csv", "confidence.csv"):
        table = pd.read_csv(folder / "one" / name).drop(columns="pick", errors="ignore").dropna(axis=1, how="all")
        assert np.isfinite(table).all(axis=None)


# Leave a job this much memory, and run it.
SCARCE = """
import resource, torch
from lplgrad.cli import run
from lplgrad.rounds import training
if torch.cuda.is_available():
    torch.cuda.set_per_process_memory_fraction(2**28 / torch.cuda.mem_get_info()[1])
else:
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
run()
"""


def test_a_batch_that_does_not_fit_is_one_line(folder: Path) -> None:
    write_data(folder, 224)
    log = run(folder, training("one", "training.batch_size=40"), status=1, program=("-c", SCARCE))
    (error,) = (line for line in log.splitlines() if "error" in line.lower())
    assert error.startswith("lplgrad train: error: out of memory in a step of training.batch_size: 40; lower it")
    assert log.endswith(f"{error}\n")
    assert not files(folder / "one")


class TestLeases:
    @only_gpu
    def test_the_listed_cards_are_those_of_torch(self) -> None:
        properties = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        assert sorted(visible_devices()) == sorted(f"GPU-{one.uuid}" for one in properties)

    @only_gpu
    def test_cuda_starts_after_the_lease(self, folder: Path) -> None:
        """This lease hides all cards. If CUDA had started before it, the job would still see one."""
        lease = "round.lease_gpu = lambda *_: os.environ.update(CUDA_VISIBLE_DEVICES='')"
        code = f"import os; from lplgrad.cli import run; from lplgrad.rounds import round, training; {lease}; run()"
        assert "torch sees no GPU" in run(folder, training("one"), status=1, program=("-c", code))

    @pytest.mark.parametrize("together", [1, 2])
    def test_jobs_on_a_card(self, folder: Path, together: int) -> None:
        """The second of two jobs waits, or not, until the first one has ended. They name the card differently."""
        card = "0" if ON_CPU else visible_devices()[0]  # on the processor it is only a name
        shared = ["--jobs-per-gpu", str(together)]
        endless = [*training("one", epochs=100_000, device="auto"), *shared]
        first = start(folder, endless, CUDA_VISIBLE_DEVICES="0")
        log_until(first, f"GPU {card} is leased")
        log_until(first, "epoch 2/")
        second = start(folder, [*training("two", device="auto"), *shared], CUDA_VISIBLE_DEVICES=card)
        if together == 1:
            log_until(second, "waiting for a GPU")
            assert second.poll() is None
            first.kill()
        _, log = second.communicate()
        assert second.returncode == 0, log
        assert f"GPU {card} is leased" in log
        assert f"3 epochs on {DEVICE}" in log
        assert together == 1 or first.poll() is None, "side by side"


@pytest.mark.slow
def test_a_study(tmp_path: Path) -> None:
    """Through Snakemake, with the fork server. One or two jobs on a card measure the same."""
    study = yaml.safe_load((HOME / "tests/tiny.yaml").read_text())
    study["run"] |= {"strategies": ["lplgrad", "entropy"], "seeds": [1]}
    study["datasets"]["digits"]["budgets"]["small"]["labels"] = 20
    found = []
    for together in (1, 2):
        folder = tmp_path / str(together)
        folder.mkdir()
        study["compute"] = {"device": DEVICE, "jobs_per_gpu": together}
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        snakemake = [sys.executable, "-m", "snakemake", "-s", str(HOME / "Snakefile"), "--cores", "4"]
        places = [] if ON_CPU else ["--resources", f"gpu={together}"]
        done = subprocess.run(
            [*snakemake, *places, "--until", "measurements", "--configfile", "study.yaml"],
            cwd=folder, capture_output=True, text=True, timeout=LONGEST,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        logs = [log.read_text() for log in (folder / "logs").rglob("train.log")]
        assert logs
        assert not any("no fork server" in log for log in logs)
        assert ON_CPU or all("is leased" in log for log in logs)
        found.append((folder / "results/tiny/measurements.csv").read_bytes())
    assert found[0] == found[1]
