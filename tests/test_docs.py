"""The code of the pages that say how to add a file to a registry, run by the real commands in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch

from lplgrad import modalities
from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.rounds.checkpoints import load
from lplgrad.rounds.oracle import pool_labels
from lplgrad.study.reading import read_study
from tests.modalities import test_contract as contract

HOME = Path(__file__).parents[1]
PAGES = {
    name: HOME / "docs" / f"add-{name}.md" for name in ("acquisition", "backbone", "dataset", "recipe", "modality")
}
CNN = "{backbone: {name: plain_cnn, width: 8}, recipe: {trains: joint}, training: TRAINING}"
PSEUDO = "{backbone: {name: small_resnet}, recipe: {trains: pseudo_labels, threshold: 0.7}, training: TRAINING}"
PLAIN = "{backbone: {name: small_resnet}, training: TRAINING}"
TRAINING = "{epochs: 12, batch_size: 20, learning_rate: 0.05, milestones: []}"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page].read_text(), re.MULTILINE | re.DOTALL)


def commands(folder: Path, settings: str, output: str, query: str) -> list[list[str]]:
    """Train a model on the labels of round 1, and query with it."""
    common = ["--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1", "--output", output]
    trained = settings.replace("TRAINING", TRAINING)
    checkpoint = ["--checkpoint", f"{output}/checkpoint.safetensors"]
    return [["train", *common, "--settings", trained], ["query", *common, *checkpoint, "--settings", query]]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_has_one_file_that_it_places(page: str) -> None:
    text = PAGES[page].read_text()
    assert len(text.splitlines()) < 100
    assert len(blocks(page, "python")) == 1
    assert len(re.findall(r"`src/lplgrad/\w+/\w+\.py`", text)) == 1


def test_the_configurations_of_the_readme_are_valid(tmp_path: Path) -> None:
    found = re.findall(r"^```yaml\n(.*?)^```", (HOME / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 3
    for number, block in enumerate(found):
        overlay = tmp_path / f"{number}.yaml"
        overlay.write_text(block)
        assert read_study([HOME / "config.yaml", overlay]).run.datasets


@pytest.mark.parametrize("page", [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))])
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a user has added the files of all pages, and has run their commands."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(HOME / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for page, path in PAGES.items():
        (place,) = re.findall(r"`(src/lplgrad/\w+/\w+\.py)`", path.read_text())
        assert not (folder / place).exists(), "the page's file is in the package already"
        (folder / place).write_text(blocks(page, "python")[0])
        (folder / f"{page}.yaml").write_text("\n".join(blocks(page, "yaml")))
    digits = sklearn.datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    np.savez(folder / "scans.npz", X=images, y=digits.target)
    study = [str(HOME / "config.yaml"), str(HOME / "demo.yaml")]
    source = "{source: image_arrays, path: scans.npz, test_fraction: 0.3}"
    todo = [
        *(["study", *study, f"{page}.yaml"] for page in PAGES if page != "modality"),
        ["prepare", "--settings", source, "--output", "data"],
        ["files", "--data", "data", "--output", "data/files.csv"],
        ["start", "--data", "data", "--query-size", "100", "--seed", "1", "--output", "labeled.csv"],
        *commands(folder, CNN, "cnn", "{acquisition: predicted_loss, query_size: 10, candidates: 100}"),
        *commands(folder, PSEUDO, "pseudo", "{acquisition: gradient_norm, query_size: 10, candidates: 100}"),
        *commands(folder, PLAIN, "plain", "{acquisition: odds, query_size: 10, candidates: 100}"),
    ]
    script = (
        "import json, sys; from lplgrad.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    if main(words): sys.exit(f'failed: {words}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(todo)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder / "out").write_text(done.stdout)
    (folder / "log").write_text(done.stderr)
    return folder


def accuracy(folder: Path, output: str) -> float:
    return float(json.loads((folder / output / "metrics.json").read_text())["accuracy"])


@pytest.mark.slow
class TestPages:
    def test_their_configurations_are_accepted(self, folder: Path) -> None:
        """``lplgrad study`` has printed them, with the options of the new files."""
        printed = (folder / "out").read_text()
        for words in ("acquisition: odds", "name: plain_cnn", "trains: pseudo_labels", "source: image_arrays"):
            assert words in printed

    def test_the_data_set_has_every_image_once_with_its_class(self, folder: Path) -> None:
        data = open_dataset(folder / "data")
        with np.load(folder / "scans.npz") as given:
            expected = sorted(
                (image.tobytes(), int(label)) for image, label in zip(given["X"], given["y"], strict=True)
            )
        parts = [
            (data.splits["train"].inputs, pool_labels(data)),
            (data.splits["test"].inputs, data.splits["test"].labels),
        ]
        found = [(image.tobytes(), int(label)) for part in parts for image, label in zip(*part, strict=True)]
        assert sorted(found) == expected
        assert len(data.splits["test"].inputs) == round(0.3 * len(found))
        assert data.classes == [str(digit) for digit in range(10)]
        assert len((folder / "data" / "files.csv").read_text().splitlines()) == 1 + len(found)

    def test_the_backbone_learns_in_the_recipe_that_needs_stages(self, folder: Path) -> None:
        assert accuracy(folder, "cnn") > 0.5
        scores = pd.read_csv(folder / "cnn" / "scores.csv")
        assert scores["score"].nunique() == 100

    def test_the_recipe_learns_and_finds_pseudo_labels(self, folder: Path) -> None:
        assert accuracy(folder, "pseudo") > 0.5
        shares = [float(share) for share in re.findall(r"pseudo-labels (\S+)", (folder / "log").read_text())]
        assert len(shares) > 1
        assert 0 <= shares[0] < shares[-1] <= 1

    def test_the_acquisition_function_chooses_the_highest_odds(self, folder: Path) -> None:
        scores, data = pd.read_csv(folder / "plain" / "scores.csv"), open_dataset(folder / "data")
        learner = load(folder / "plain" / "checkpoint.safetensors").learner
        images = torch.tensor(data.splits["train"].inputs[scores["index"].to_numpy()]).permute(0, 3, 1, 2)
        learner.model.eval()
        with torch.no_grad():
            logits = learner.model((images / 255 - data.mean[0]) / data.std[0]).double()
        ordered = logits.softmax(dim=1).sort(dim=1).values
        np.testing.assert_allclose(scores["score"], (ordered[:, -2] / ordered[:, -1]).numpy(), atol=1e-4)
        chosen = scores["pick"].notna()
        assert chosen.sum() == 10
        assert scores["score"][chosen].min() >= scores["score"][~chosen].max()
        assert (folder / "plain" / "test_scores.csv").exists()


def test_the_modality_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "points.py").write_text(blocks("modality", "python")[0])
    monkeypatch.setattr(modalities, "__path__", [*modalities.__path__, str(tmp_path)])
    monkeypatch.setattr(modalities.registry, "path", modalities.__path__)
    points = np.random.default_rng(0).normal(size=(12, 5, 2)).astype(np.float32)
    monkeypatch.setitem(contract.EXAMPLES, "points", points)
    monkeypatch.setitem(contract.AUGMENTED, "points", {"shuffle": True})
    assert "points" in modalities.registry.names()
    for name, test in vars(contract).items():
        if name.startswith("test_") and test.__code__.co_argcount == 1:
            test("points")
    shuffle = contract.view_of("points", shuffle=True).augmenter(torch.from_numpy(points))
    draws = torch.from_numpy(shuffle.draw(np.random.default_rng(1)))
    found = shuffle(torch.arange(12), draws)
    assert torch.equal(found.sort(dim=1).values, torch.from_numpy(points).sort(dim=1).values)
