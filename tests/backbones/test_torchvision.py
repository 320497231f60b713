"""The backbone `torchvision`: any classification model, weights of the user's own, and frozen bodies."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lplgrad.backbones import _torchvision
from lplgrad.backbones._torchvision import TorchvisionNetwork
from lplgrad.backbones.torchvision import Options, offers
from lplgrad.cli import main
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest
from lplgrad.rounds import training
from lplgrad.rounds.checkpoints import build as build_learner
from lplgrad.rounds.checkpoints import first_weights, load
from lplgrad.study.settings import BackboneRow, RecipeRow

NAMES = ["mobilenet_v3_small", "resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t"]


def network_of(shape: tuple[int, ...] = (3, 32, 32), classes: int = 4, **options: Any) -> TorchvisionNetwork:
    """A network with its first weights, in eval mode."""
    row = BackboneRow.model_validate({"name": "torchvision", **options})
    learner = build_learner(row, RecipeRow(trains="plain"), shape, classes)
    first_weights(learner, row, lambda purpose: np.random.default_rng(1))
    network = learner.networks["model"].eval()
    assert isinstance(network, TorchvisionNetwork)
    return network


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_those_of_the_body(tmp_path: Path, name: str, suffix: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": model.state_dict()}, file)
    else:
        save_file(model.state_dict(), file)
    inputs = torch.randn(2, 3, 32, 32)
    same, other = (network_of(classes=classes, model=name, weights=str(file)) for classes in (1000, 4))
    with torch.no_grad():
        expected = model(inputs)
        torch.testing.assert_close(same(inputs), expected)
        outputs = other.outputs(inputs)
        torch.testing.assert_close(outputs.features, same.outputs(inputs).features)
    assert outputs.logits.shape == (2, 4)
    assert outputs.features.shape == (2, other.feature_size)


def test_first_weights_are_torchvisions_and_follow_the_stream() -> None:
    outside = torch.random.get_rng_state()
    one, again = (network_of(model="mobilenet_v3_small").state_dict() for _ in range(2))
    assert all(torch.equal(one[name], tensor) for name, tensor in again.items())
    assert torch.equal(torch.random.get_rng_state(), outside)
    first = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    wide = one["body.features.12.0.weight"]
    assert wide.std().item() == pytest.approx(first["features.12.0.weight"].std().item(), rel=0.05)


def test_grey_images_see_the_sum_of_the_channels(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    grey = network_of((1, 32, 32), 1000, model="resnet18", weights=str(tmp_path / "weights.safetensors"))
    inputs = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey(inputs), model(inputs.expand(-1, 3, -1, -1)))
    assert network_of((2, 32, 32), model="resnet18")(torch.randn(1, 2, 32, 32)).shape == (1, 4)


def test_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        model = torchvision.models.VisionTransformer(64, 16, 12, 12, 768, 3072)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    network = network_of((3, 32, 32), model="vit_b_16", weights=str(tmp_path / "weights.safetensors"))
    assert network.body.encoder.pos_embedding.shape == (1, 1 + 2 * 2, 768)  # type: ignore[union-attr]
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 4)


def test_residual_networks_offer_stages() -> None:
    network = network_of(model="resnet50")
    outputs = network.outputs(torch.randn(2, 3, 32, 32), stages=True)
    assert [stage.shape[1] for stage in outputs.stages] == list(network.stage_sizes) == [256, 512, 1024, 2048]
    torch.testing.assert_close(outputs.stages[-1], outputs.features)
    assert offers(Options(model="wide_resnet50_2")) == {"stages"}
    assert offers(Options(model="swin_t", dropout=0.1)) == {"dropout"}


@pytest.mark.parametrize(
    ("shape", "options", "problem"),
    [
        ((3, 32, 32), {"model": "resnet19"}, "no classification model 'resnet19' .did you mean 'resnet18'"),
        ((3, 32, 32), {"model": "squeezenet1_0"}, "does not end in a linear layer"),
        ((3, 8, 8), {"model": "alexnet"}, "alexnet does not take images of 8x8"),
        ((3, 8, 8), {"model": "vit_b_16"}, "vit_b_16 does not take images of 8x8"),
        ((3, 32, 48), {"model": "vit_b_16"}, "takes square images, not 48x32"),
    ],
)
def test_models_that_do_not_fit_are_refused(shape: tuple[int, ...], options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        network_of(shape, **options)


def test_files_of_other_kinds_are_read(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    whole = model.state_dict()
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(inputs)
    old = {f"module.{name}": one for name, one in whole.items() if not name.endswith("num_batches_tracked")}
    cases: list[tuple[dict[str, torch.Tensor], float]] = [
        (old, 1e-6), ({name: one.double() if one.is_floating_point() else one for name, one in whole.items()}, 1e-6),
        ({name: one.half() if one.is_floating_point() else one for name, one in whole.items()}, 5e-2),
    ]  # fmt: skip
    for given, tolerance in cases:
        torch.save(given, tmp_path / "weights.pth")
        found = network_of(classes=1000, model="resnet18", weights=str(tmp_path / "weights.pth"))
        assert all(one.dtype in (torch.float32, torch.int64) for one in found.state_dict().values())
        with torch.no_grad():
            torch.testing.assert_close(found(inputs), expected, atol=tolerance * float(expected.abs().max()), rtol=0)
    with torch.device("meta"):
        inception = torchvision.models.inception_v3(weights=None, init_weights=False)
    assert any(name.startswith("AuxLogits.") for name in inception.state_dict())
    assert _torchvision.AUXILIARY.match("AuxLogits.conv0.conv.weight")
    assert _torchvision.DENSE.sub(r"\1\2", "features.denseblock1.denselayer1.norm.1.weight").endswith("norm1.weight")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "layer1.0.conv1.weight has the shape .1,., not .64, 64, 3, 3."),
        ({"head.w": torch.zeros(1)}, "head.w is unknown"),
        ({"bn1.bias": None}, "bn1.bias is missing"),
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"fc.weight": torch.zeros(1000, 100)}, "fc.weight has the shape .1000, 100., not .1000, 512."),
        ({"bn1.bias": torch.zeros(64, dtype=torch.int64)}, "bn1.bias is of the type torch.int64"),
        ({"bn1.bias": torch.zeros(64, dtype=torch.complex64)}, "bn1.bias is of the type torch.complex64"),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias has numbers that are not finite"),
        ({"module.bn1.bias": torch.zeros(64)}, "has bn1.bias twice"),
        ({"conv1.weight": torch.zeros(64, 5, 7, 7)}, "conv1.weight has the shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    state = {**torchvision.models.resnet18(weights=None).state_dict(), **change}
    torch.save({name: one for name, one in state.items() if one is not None}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=problem):
        network_of((1, 32, 32), model="resnet18", weights=str(tmp_path / "weights.pth"))


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    for content in (b"", b"text", b"PK\x03\x04", b"\x80\x02}q\x00."):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"not a (file of weights|state dict)"):
            network_of(model="resnet18", weights=str(file))
    for value, problem in (
        (Path("/"), "needs code to be unpickled"),
        ([1], "not a state dict"),
        ({}, "not a state dict"),
    ):
        torch.save(value, file)
        with pytest.raises(UserError, match=problem):
            network_of(model="resnet18", weights=str(file))
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a file of weights"):
        network_of(model="resnet18", weights=str(tmp_path / "weights.safetensors"))
    with pytest.raises(ValueError, match="freeze: true needs weights"):
        BackboneRow.model_validate({"name": "torchvision", "model": "resnet18", "freeze": True})


class Trial:
    """Commands on a data set of tiny images, upscaled to 32x32."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.folder, self.settings = folder, settings
        images = ["source=image_folder", f"path={folder / 'images'}", "image_size=32", "test_images=10"]
        _write_images(folder / "images")
        assert main(["prepare", "--settings", *images, "--output", str(folder / "data")]) == 0
        self.given = ["--data", str(folder / "data"), "--labeled", str(folder / "labeled.csv"), "--seed", "1"]
        self.given += ["--progress-seconds", "0"]
        start = ["--query-size", "6", "--seed", "1", "--output", str(folder / "labeled.csv")]
        assert main(["start", "--data", str(folder / "data"), *start]) == 0

    def train(self, output: str, epochs: int = 2) -> int:
        settings = [*self.settings, f"training.epochs={epochs}", "training.milestones=[]", "training.batch_size=3"]
        settings += ["training.learning_rate=0.001"]
        return main(
            ["train", *self.given, "--round", "1", "--settings", *settings, "--output", str(self.folder / output)]
        )

    def query(self, output: str, acquisition: str, *options: str) -> int:
        checkpoint = ["--checkpoint", str(self.folder / output / "checkpoint.safetensors"), "--round", "1"]
        settings = [f"acquisition={acquisition}", "query_size=2", "candidates=4", *options]
        return main(["query", *self.given, *checkpoint, "--settings", *settings, "--output", str(self.folder / output)])


def _write_images(folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(15):
            pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=draw).numpy()
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def _interrupt(items: Iterable[Any], *_: Any) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number == 1:
            raise KeyboardInterrupt
        yield item


def test_a_frozen_body_stays_as_it_is_and_out_of_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    save_file(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), file)
    backbone = f"backbone={{name: torchvision, model: mobilenet_v3_small, weights: '{file}', freeze: true}}"
    trial = Trial(tmp_path, [backbone])
    assert trial.train("whole") == 0
    saved = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    assert saved.keys() == {"model/head.weight", "model/head.bias"}
    with safe_open(tmp_path / "whole" / "checkpoint.safetensors", "pt") as opened:
        header = json.loads(opened.metadata()["lplgrad"])
    assert header["files"] == {str(file): file_digest(file)}
    assert json.loads((tmp_path / "whole" / "settings.json").read_text())["files"] == header["files"]
    network = load(tmp_path / "whole" / "checkpoint.safetensors").learner.networks["model"]
    body = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("body.")}
    expected = load_file(file)
    assert all(torch.equal(tensor, expected[name.removeprefix("body.")]) for name, tensor in body.items())
    assert not any(module.training for module in network.train().body.modules())  # type: ignore[union-attr]
    with monkeypatch.context() as patched:
        patched.setattr(training, "track", _interrupt)
        assert trial.train("again") == 130
    assert trial.train("again") == 0
    for name in ("checkpoint.safetensors", "test_logits.npy"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert trial.query("whole", "gradient_norm") == 0  # of the head alone
    capsys.readouterr()
    save_file({name: one + 1 for name, one in expected.items()}, file)
    assert trial.query("whole", "entropy") == 1
    assert f"was trained with another file {file}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_train_query_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    trial = Trial(tmp_path, [f"backbone={{name: torchvision, model: {name}}}"])
    assert trial.train("whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr(training, "track", _interrupt)
        assert trial.train("again") == 130
    assert (tmp_path / "again" / "progress.safetensors").exists()
    assert trial.train("again") == 0
    for file in ("checkpoint.safetensors", "test_logits.npy", "metrics.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert trial.query("whole", "coreset") == 0
    fallback = name in ("convnext_tiny", "vit_b_16", "swin_t")
    assert trial.query("whole", "gradient_norm") == int(fallback)
    assert trial.query("whole", "gradient_norm", "options.fallback=true") == 0
