"""What entries of the registries bring to a round: options, needs of other examples, measures of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lplgrad import acquisition, recipes
from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.recipes import Learner, Recipe, Spec
from lplgrad.recipes.plain import Learner as Plain
from lplgrad.rounds.checkpoints import load
from tests.by_hand import QUERY, Call, first_round, of_round, query, train
from tests.conftest import JOINT


def test_a_warm_start_trains_with_the_options_of_the_job(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
    first_round(lplgrad, tmp_path)
    found = []
    for number, margin in enumerate((1, 5)):
        settings = JOINT.replace("trains: joint", f"trains: joint, margin: {margin}")
        assert settings != JOINT
        status, said = train(
            lplgrad, tmp_path, settings, number=2, output=f"round2_{number}", labeled=of_round(2, tmp_path),
            checkpoint=tmp_path / "round1" / "checkpoint.safetensors",
        )  # fmt: skip
        assert status == 0, said
        found.append(np.load(tmp_path / f"round2_{number}" / "test_logits.npy"))
    assert not np.array_equal(*found)


def test_a_warm_start_refuses_other_networks(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
    first_round(lplgrad, tmp_path)
    settings = JOINT.replace("trains: joint", "trains: ensemble, members: 2")
    assert train(lplgrad, tmp_path, settings)[0] == 0
    status, said = train(
        lplgrad, tmp_path, settings.replace("members: 2", "members: 3"), number=2, output="round2",
        labeled=of_round(2, tmp_path), checkpoint=tmp_path / "round1" / "checkpoint.safetensors",
    )  # fmt: skip
    assert status == 1
    assert "has the networks model, member2, not model, member2, member3" in said


def test_the_round_before_is_given_to_a_recipe_that_reads_it(
    data: DatasetArrays, tmp_path: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Learner] = []

    class Reading(Plain):
        def begin(self, *arguments: Any) -> None:
            super().begin(*arguments)
            if self.previous is not None:
                seen.append(self.previous)

    monkeypatch.setattr("lplgrad.recipes.plain.RECIPE", Recipe(Reading, reads_previous=lambda options: True))
    first_round(lplgrad, tmp_path)
    for init in ("fresh", "warm"):
        settings = JOINT.replace("trains: joint", f"trains: plain, init: {init}")
        assert train(lplgrad, tmp_path, settings)[0] == 0
        status, said = train(
            lplgrad, tmp_path, settings, number=2, output="round2", labeled=of_round(2, tmp_path),
            checkpoint=tmp_path / "round1" / "checkpoint.safetensors",
        )  # fmt: skip
        assert status == 0, said
        previous = seen.pop()
        before = load(tmp_path / "round1" / "checkpoint.safetensors").learner.model.state_dict()
        assert all(torch.equal(previous.model.state_dict()[name], tensor) for name, tensor in before.items())
        assert not any(module.training for module in previous.model.modules())
        assert not any(parameter.requires_grad for parameter in previous.model.parameters())


def test_needs_of_other_examples_and_measures_of_its_own(
    data: DatasetArrays, tmp_path: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the augmentation is random, and when test images are scored."""
    given: list[Candidates] = []

    def score(candidates: Candidates, options: Any) -> Any:
        given.append(candidates)
        return candidates["own:twice"][:, 0]

    def twice(learner: Learner, batches: Any, factor: Any, generator: np.random.Generator) -> Any:
        assert isinstance(generator, np.random.Generator)
        return torch.cat([learner.reported(inputs) for inputs in batches()]) * factor

    needs = {
        "own:twice": 2, "labeled:labels": None, "labeled:features": None, "pool:logits": None, "labeled:logits": None,
    }  # fmt: skip
    function = Acquisition(score, needs=lambda options: needs, measures={"twice": twice}, alone=True)
    monkeypatch.setattr("lplgrad.acquisition.entropy.ACQUISITION", function)
    first_round(lplgrad, tmp_path)
    settings = QUERY.replace("NAME", "entropy").replace(
        "}", ", query_transform: train, augmentation: {crop_padding: 2}}"
    )
    status, said = query(lplgrad, tmp_path, settings)
    assert status == 0, said
    of_candidates, of_test = given
    assert len(of_candidates["own:twice"]) == 30
    assert torch.equal(of_candidates["own:twice"], 2 * of_candidates["logits"])
    assert len(of_test["own:twice"]) == 20
    for candidates in given:
        assert candidates["labeled:labels"].tolist() == [
            int(line.split(",")[2]) for line in (tmp_path / "labeled.csv").read_text().splitlines()[1:]
        ]
        assert candidates["labeled:features"].shape == (6, 16)
        assert candidates["pool:logits"].shape == (60, 4)


def test_an_acquisition_function_needs_a_score_or_a_choice() -> None:
    for wrong in ({}, {"choose": lambda *_: None, "alone": True}):
        with pytest.raises(ValueError, match="needs score or choose"):
            Acquisition(**wrong)  # type: ignore[arg-type]


def test_a_recipe_without_a_loss_is_a_fault_of_the_recipe(
    data: DatasetArrays, tmp_path: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Plain):
        def step(self, draw: Any) -> Any:
            super().step(draw)
            return {}

    monkeypatch.setattr("lplgrad.recipes.plain.RECIPE", Recipe(Silent))
    first_round(lplgrad, tmp_path)
    with pytest.raises(ValueError, match="each epoch must measure a loss"):
        train(lplgrad, tmp_path, JOINT.replace("trains: joint", "trains: plain"))


def test_registries_find_files_and_nothing_else() -> None:
    assert "_samples" not in acquisition.registry.names()
    assert {"plain", "joint", "ensemble", "waal"} <= set(recipes.registry.names())
    assert recipes.registry.root("plain") == "recipes.plain.RECIPE"
    assert json.dumps(recipes.registry.names()) == json.dumps(sorted(recipes.registry.names()))
    assert Spec(lambda classes: None, (1, 8, 8), 3).classes == 3  # type: ignore[arg-type,return-value]
