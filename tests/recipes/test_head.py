"""The recipes with a head of their own, on every kind of backbone: `mc_dropout` and `nce_net`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lplgrad import acquisition, backbones, recipes
from lplgrad.acquisition import Slope, unmet
from lplgrad.acquisition._samples import Options as Samples
from lplgrad.acquisition.entropy import entropy
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import build, first_weights
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.needs import gradient_norms, stochastic_logits
from lplgrad.study.settings import BackboneRow, RecipeRow
from tests import by_hand
from tests.by_hand import QUERY, Call, first_round
from tests.conftest import TRAIN
from tests.learners import PLAIN, SMALL, learner_of, run, state

BACKBONES: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"name": "small_resnet", "width": 4}, (1, 8, 8)),
    ({"name": "resnet18", "width": 4, "dropout": 0.2}, (3, 8, 8)),
    ({"name": "torchvision", "model": "shufflenet_v2_x0_5"}, (1, 32, 32)),
    ({"name": "resnet1d", "width": 4}, (2, 16)),
    ({"name": "mlp", "hidden": [8]}, (5,)),
    ({"name": "linear"}, (5,)),
]
ROWS = [RecipeRow(trains="mc_dropout"), RecipeRow(trains="nce_net")]
MC_DROPOUT, NCE_NET = ROWS


def offered(row: RecipeRow, backbone: BackboneRow = SMALL) -> frozenset[str]:
    of_backbone = backbones.registry.load(backbone.name).offers(backbone.checked_options)
    return recipes.registry.load(row.trains).offered(row.checked_options, of_backbone)


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES, ids=lambda one: one["name"] if isinstance(one, dict) else "")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.trains)
def test_any_backbone_takes_the_head(row: RecipeRow, backbone: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Its own first weights are those that it has with its own head, and the head has others."""
    checked = BackboneRow.model_validate(backbone)
    learner, plain = (first_weights(build(checked, one, shape, 3), checked, partial(stream, 1)) for one in (row, PLAIN))
    own, expected = learner.model.state_dict(), plain.model.state_dict()
    assert own.keys() < expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
    inputs = torch.randn(5, *shape)
    found = predict(learner, [inputs], frozenset({"logits", "features"}))
    assert found["logits"].shape == (5, 3)
    assert found["features"].shape == (5, plain.model.feature_size)
    with torch.no_grad():
        torch.testing.assert_close(learner.reported(inputs), found["logits"])
    norms = gradient_norms(learner, Slope(entropy, fallback=row == NCE_NET), [inputs], 5)
    assert norms.total.isfinite().all()
    assert any(name.startswith("1.") for name in norms.names), "the head is part of the gradient"


def dropping() -> Learner:
    learner = learner_of(MC_DROPOUT)
    run(learner)
    return learner


class TestDropout:
    def test_passes_differ_and_their_mean_logits_are_the_reported_ones(self) -> None:
        """The head is linear, so that a pass without dropout has the expected logits of one with dropout."""
        learner, images = dropping(), torch.randn(4, 1, 8, 8)
        passes = stochastic_logits(learner, lambda: [images], 800, seed=1)
        reported = predict(learner, [images])["logits"]
        assert torch.equal(reported, predict(learner, [images])["logits"])
        assert not torch.equal(passes[:, 0], passes[:, 1])
        error = passes.std(dim=1) / 800**0.5
        assert ((passes.mean(dim=1) - reported).abs() < 5 * error).all()

    def test_it_drops_features_at_its_rate(self) -> None:
        learner = learner_of(RecipeRow.model_validate({"trains": "mc_dropout", "rate": 0.25}))
        dropped: list[float] = []

        def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            there = given[0] != 0
            dropped.append(float((made[there] == 0).float().mean()))

        learner.networks["head"].get_submodule("0").register_forward_hook(count)
        run(learner)
        assert min(dropped) > 0
        stochastic_logits(learner, lambda: [torch.randn(500, 1, 8, 8)], 1, seed=1)
        assert dropped[-1] == pytest.approx(0.25, abs=0.02)

    @pytest.mark.parametrize("name", ["bald", "variation_ratio"])
    def test_it_offers_passes_on_a_backbone_without_dropout(self, name: str) -> None:
        needs = acquisition.registry.load(name).needs(Samples(samples="dropout"))
        assert unmet(needs, offered(PLAIN)) == ["stochastic_logits"]
        assert unmet(needs, offered(MC_DROPOUT)) == []


@pytest.mark.parametrize(
    ("recipe", "function"), [("mc_dropout", "bald, samples: dropout, passes: 3"), ("nce_net", "nce_net, by: confusion")]
)
def test_a_round_by_hand(recipe: str, function: str, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
    """A training, and the query that reads its checkpoint."""
    first_round(lplgrad, tmp_path)
    status, said = by_hand.train(lplgrad, tmp_path, TRAIN[:-1] + f", recipe: {{trains: {recipe}}}}}")
    assert status == 0, said
    name, *options = function.split(", ")
    settings = QUERY.replace("NAME", name)[:-1] + f", options: {{{', '.join(options)}}}}}"
    status, said = by_hand.query(lplgrad, tmp_path, settings)
    assert status == 0, said
    assert "chose 6 of 30 candidates" in said
    scores = [float(line.split(",")[1]) for line in (tmp_path / "round1" / "scores.csv").read_text().splitlines()[1:]]
    assert len(set(scores)) > 10


def test_a_step_trains_backbone_and_head() -> None:
    for row in ROWS:
        learner = learner_of(row)
        before = state(learner)
        run(learner)
        parameters = [f"{name}/{key}" for name, one in learner.networks.items() for key, _ in one.named_parameters()]
        assert not any(torch.equal(state(learner)[name], before[name]) for name in parameters)


def test_functions_of_a_linear_head_refuse_other_recipes() -> None:
    """All else that they need is there: the gradient of the last layer is not what they compute."""
    members = [RecipeRow.model_validate({"trains": "ensemble", "members": number}) for number in (1, 2)]
    rows = [PLAIN, MC_DROPOUT, members[0], NCE_NET, members[1]]
    for name, options, wanted in [
        ("badge", {}, True),
        ("bait", {}, True),
        ("last_layer", {}, True),
        ("last_layer", {"proxy": "variance"}, True),
        ("last_layer", {"proxy": "error"}, False),
        ("last_layer", {"proxy": "feature_norm"}, False),
        ("gp_surrogate", {}, False),
        ("entropy", {}, False),
    ]:
        function = acquisition.registry.load(name)
        checked = function.options.model_validate(options)
        refused = ["linear_head"] if wanted else []
        assert [unmet(function.requires(checked), offered(row)) for row in rows] == [[], [], [], refused, refused]
        assert "linear_head" not in function.needs(checked), "it is not measured"


def test_what_each_recipe_extends() -> None:
    found = {name: recipes.registry.load(name).extends for name in ("joint", "mc_dropout", "verips")}
    assert found == dict.fromkeys(found, "plain")


def test_rejection_and_confusion_are_those_of_the_recipe_alone() -> None:
    function = acquisition.registry.load("nce_net")
    for by in ("rejection", "confusion"):
        options = function.options.model_validate({"by": by})
        assert unmet(function.needs(options), offered(PLAIN)) == [by]
        assert unmet(function.needs(options), offered(NCE_NET)) == []
