"""Noise stability: deviations against a reference in float64, the noise itself, and the choice by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skactiveml.pool import CoreSet
from torch import Tensor, nn

from lplgrad.acquisition import Candidates, Choice, choice_of, noise_stability
from lplgrad.acquisition.noise_stability import Options, added, deviations, noise, noisy
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.errors import UserError
from lplgrad.recipes import Learner
from lplgrad.study.settings import BackboneRow, RecipeRow
from tests.by_hand import QUERY, Call, first_round, query
from tests.learners import learner_of, same, state

LINEAR = BackboneRow(name="linear")
PERCEPTRON = BackboneRow.model_validate({"name": "mlp", "hidden": [8]})


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """As the query calls a measure."""
    with torch.no_grad():
        yield


def learner(backbone: BackboneRow | None = None, recipe: RecipeRow | None = None) -> Learner:
    """A learner in eval mode, with three classes; the main model's batch norms have seen noise."""
    given = {} if backbone is None else {"backbone": backbone, "shape": (4,)}
    found = learner_of(recipe or RecipeRow(trains="plain"), classes=3, **given)  # type: ignore[arg-type]
    for network in found.networks.values():
        network.eval()
    found.model.train()(inputs(found))
    found.model.eval()
    return found


def head_of(of: Learner) -> nn.Linear:
    head = of.model.head
    assert isinstance(head, nn.Linear)
    return head


def inputs(of: Learner, count: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, *of.spec.shape, generator=torch.Generator().manual_seed(seed))


def measured(of: Learner, batches: list[Tensor], seed: int = 7, **options: Any) -> Tensor:
    checked = options.pop("checked", None) or Options(**options)
    return deviations(of, lambda: batches, checked, np.random.default_rng(seed))


def reference(of: Learner, given: Tensor, options: Options, seed: int = 7) -> Tensor:
    """The deviations of a copy of the model in float64, whose weights are moved by formula, shape (S, K, C)."""
    of_noise, _ = np.random.default_rng(seed).spawn(2)
    still, rows = copy.deepcopy(of.reported).double(), []
    chosen = [
        name
        for name, one in still.named_parameters()
        if (one.requires_grad if options.noise == "global" else name.endswith("weight"))
    ]
    before = still(given.double()).softmax(dim=1)
    for _ in range(options.samples):
        weights: dict[str, Tensor] = dict(still.named_parameters())
        drawn = {
            name: torch.from_numpy(of_noise.standard_normal(weights[name].shape, dtype=np.float32)) for name in chosen
        }
        for names in [chosen] if options.noise == "global" else [[name] for name in chosen]:
            length = torch.cat([weights[name].flatten() for name in names]).norm()
            unit = torch.cat([drawn[name].double().flatten() for name in names]).norm()
            for name in names:
                weights[name] = weights[name] + options.scale * length * drawn[name].double() / unit
        after = torch.func.functional_call(still, weights, (given.double(),)).softmax(dim=1)
        rows.append((after - before) / before.square().sum(dim=1, keepdim=True).sqrt())
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("kind", ["layerwise", "global"])
@pytest.mark.parametrize("backbone", [None, PERCEPTRON])
def test_deviations_are_those_of_a_reference_in_float64(kind: Any, backbone: BackboneRow | None) -> None:
    """With small batch-norm networks and perceptrons: the rounding of float32 is far below a deviation."""
    of = learner(backbone)
    given = inputs(of)
    options = Options(noise=kind, samples=4)
    found = measured(of, list(given.split(5)), checked=options)
    expected = reference(of, given, options)
    assert found.shape == (12, 12)
    assert found.dtype == torch.float64
    assert (found - expected.flatten(1)).norm() < 2e-3 * expected.norm()
    assert not any(network.training for network in of.networks.values())


def test_deviations_of_a_linear_model_have_the_expected_mean_square() -> None:
    """In closed form, with noise of length xi |W| on the weight of the head, from the slope of the softmax."""
    of = learner(LINEAR)
    given = inputs(of, 5)
    found = measured(of, [given], samples=5_000, projection=None, scale=1e-3).view(5, -1, 3)
    weight = head_of(of).weight.double()
    f = of.reported(given).double().softmax(dim=1)
    slopes = f.diag_embed() - f[:, :, None] * f[:, None]
    mean = 1e-6 * weight.square().sum() / weight.numel() * slopes.square().sum(dim=(1, 2))
    expected = mean * given.double().square().sum(dim=1)
    ratio = found.square().sum(dim=2).mean(dim=1) * f.square().sum(dim=1) / expected
    assert ratio.tolist() == pytest.approx([1] * 5, rel=0.05)


def test_twice_the_noise_is_twice_the_deviation_and_the_same_choice() -> None:
    """Of a perceptron to 0.1 %. Deeper networks with first weights are less linear: their ReLUs switch."""
    of = learner(PERCEPTRON)
    given = inputs(of, 40)
    one, two = (measured(of, [given], samples=10, scale=scale) for scale in (1e-3, 2e-3))
    assert (two - 2 * one).norm() < 0.01 * two.norm()
    assert chosen(one, 10).picks.tolist() == chosen(two, 10).picks.tolist()


def test_deviations_are_divided_by_the_norm_of_the_softmax() -> None:
    """Which is 1 of a certain prediction, and 1 / sqrt(C) of a flat one: its deviations grow by sqrt(3)."""
    of = learner(LINEAR)
    head = head_of(of)
    head.weight.zero_()
    head.weight[0, 0] = 1.0
    head.bias.zero_()
    flat, sure = torch.eye(4)[1:2], 30 * torch.eye(4)[0:1]
    found = measured(of, [torch.cat([flat, sure])], samples=1)
    options, (of_noise, _) = Options(samples=1), np.random.default_rng(7).spawn(2)
    ((moved,),) = [noise(group, options.scale, of_noise) for group in noisy(of.reported, options)]
    after = (flat @ (head.weight + moved).T).double().softmax(dim=1)
    assert found[0].tolist() == pytest.approx(((after[0] - 1 / 3) * 3**0.5).tolist(), rel=1e-4)
    assert found[1].abs().max() < 1e-10


def test_without_noise_nothing_deviates_and_the_pool_order_decides(capsys: pytest.CaptureFixture[str]) -> None:
    of = learner()
    found = measured(of, [inputs(of, 6)], checked=Options.model_construct(scale=0.0, samples=3))
    assert not found.any()
    assert "warning: the noise changes no prediction" in capsys.readouterr().err
    choice = chosen(found, 6, indices=np.array([5, 9, 2, 7, 1, 0]))
    assert choice.picks.tolist() == [5, 4, 2, 0, 3, 1]
    with pytest.raises(ValidationError, match="scale"):
        Options(scale=0.0)


@pytest.mark.parametrize("recipe", ["plain", "ensemble", "joint"])
@pytest.mark.parametrize("kind", ["layerwise", "global"])
def test_the_model_is_as_it_was(recipe: str, kind: Any) -> None:
    """Weights and buffers to the bit, also if a pass fails."""
    of = learner(recipe=RecipeRow(trains=recipe))
    before = state(of)
    assert any("running_mean" in name for name in before)
    assert measured(of, [inputs(of)], samples=2, noise=kind).any()
    assert same(state(of), before)
    passes: list[Tensor] = []

    def failing() -> Any:
        passes.append(inputs(of))
        return [passes[0]] if len(passes) < 3 else [torch.zeros(1)]

    with pytest.raises((RuntimeError, ValueError, IndexError)):
        deviations(of, failing, Options(noise=kind), np.random.default_rng(1))
    assert same(state(of), before)


def test_layerwise_noise_has_the_length_of_a_fraction_of_each_weight() -> None:
    of = learner()
    groups = noisy(of.reported, Options())
    names = {id(one): name for name, one in of.reported.named_parameters()}
    assert sorted(names[id(tensor)] for (tensor,) in groups) == sorted(
        f"{name}.weight" for name, module in of.reported.named_modules() if getattr(module, "weight", None) is not None
    )
    generator = np.random.default_rng(0)
    drawn = [noise(group, 1e-3, generator) for group in groups]
    before = state(of)
    for (tensor,), (moved,) in zip(groups, drawn, strict=True):
        assert float(moved.double().norm() / tensor.double().norm()) == pytest.approx(1e-3, rel=1e-6)
    with added(groups, drawn):
        during = state(of)
        assert same({name: during[name] for name in before if not name.endswith("weight")},
                    {name: before[name] for name in before if not name.endswith("weight")})  # fmt: skip
        for name in [name for name in before if name.endswith("weight")]:
            length = (during[name].double() - before[name].double()).norm() / before[name].double().norm()
            assert float(length) == pytest.approx(1e-3, rel=1e-3)


def test_global_noise_is_one_direction_over_all_that_is_trained() -> None:
    of = learner()
    frozen = next(of.reported.parameters()).requires_grad_(False)
    (group,) = noisy(of.reported, Options(noise="global"))
    assert [id(one) for one in group] == [id(one) for one in of.reported.parameters() if one is not frozen]
    drawn = torch.cat([one.flatten() for one in noise(group, 1e-3, np.random.default_rng(0))]).double()
    weights = torch.cat([one.flatten() for one in group]).double()
    assert float(drawn.norm() / weights.norm()) == pytest.approx(1e-3, rel=1e-6)
    parts = drawn.split([one.numel() for one in group])
    largest = [float(part.square().mean()) for part in parts if part.numel() > 100]
    assert max(largest) < 1.6 * min(largest), "the variance is the same everywhere"


def test_a_model_without_weights_is_refused_unless_the_noise_is_global() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3))

    with pytest.raises(UserError, match=r"no module of the model has a parameter named weight; set noise: global"):
        noisy(Shift(), Options())
    assert len(noisy(Shift(), Options(noise="global"))[0]) == 1


def test_long_rows_are_projected_by_one_random_matrix() -> None:
    of = learner(PERCEPTRON)
    given = inputs(of, 30)
    rows = measured(of, [given], samples=40, projection=None)
    assert rows.shape == (30, 120)
    assert torch.equal(measured(of, [given], samples=40, projection=120), rows)
    found = measured(of, [given], samples=40, projection=100)
    _, of_projection = np.random.default_rng(7).spawn(2)
    matrix = np.concatenate([of_projection.standard_normal((3, 100)) for _ in range(40)]) / 10
    torch.testing.assert_close(found, rows @ torch.from_numpy(matrix))
    ratios = (torch.pdist(found) / torch.pdist(rows)).log().abs()
    assert ratios.mean() < 0.1


def test_batches_and_a_second_measure_change_nothing() -> None:
    of = learner(PERCEPTRON)
    given = inputs(of, 30)
    for projection in (None, 20):
        one = measured(of, [given], samples=9, projection=projection)
        assert torch.equal(measured(of, [given], samples=9, projection=projection), one)
        torch.testing.assert_close(
            measured(of, list(given.split(7)), samples=9, projection=projection), one, rtol=0, atol=1e-6
        )
        assert not torch.equal(measured(of, [given], seed=8, samples=9, projection=projection), one)


def test_certain_predictions_do_not_deviate() -> None:
    of = learner(LINEAR)
    head_of(of).weight.mul_(1e5)
    found = measured(of, [inputs(of, 20)], samples=5)
    assert torch.isfinite(found).all()
    assert (found == 0).all(dim=1).any()
    assert sorted(chosen(found, 20).picks.tolist()) == list(range(20))


def chosen(rows: Tensor, picks: int, indices: Any = None) -> Choice:
    positions = np.arange(len(rows)) if indices is None else indices
    given = Candidates(positions, 1, 1, picks, {"own:deviations": rows})
    return choice_of(noise_stability.ACQUISITION, given, Options())


def test_choice_by_hand() -> None:
    """The first is the largest deviation. Then its neighbour is near it, and the small one near the origin."""
    rows = torch.tensor([[3.0, 0.0], [2.9, 0.0], [0.0, 2.0], [0.0, -1.0]])
    choice = chosen(rows, 3)
    assert choice.picks.tolist() == [0, 2, 3]
    assert choice.scores is not None
    assert choice.scores.tolist() == pytest.approx([9, 0.01, 4, 1], rel=1e-5)
    assert chosen(rows, 4).picks.tolist() == [0, 2, 3, 1]
    assert chosen(rows, 0).picks.tolist() == []


def test_of_equal_deviations_the_lower_index_is_chosen() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert chosen(rows, 4, np.array([8, 5, 7, 6])).picks.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("seed", range(3))
def test_choice_is_that_of_scikit_activeml(seed: int) -> None:
    """Its greedy k-center with the origin as the only labelled example. It draws among ties, so there are none here."""
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((60, 5)))
    everything = np.concatenate([np.zeros((1, 5)), rows.numpy()])
    labels = np.full(61, np.nan)
    labels[0] = 0
    expected = CoreSet(random_state=0).query(everything, labels, batch_size=25) - 1
    assert chosen(rows, 25).picks.tolist() == expected.tolist()
    assert chosen(rows, 10).picks.tolist() == expected[:10].tolist()


def test_a_query_by_noise_stability(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
    """Through the command: a second query gives the same bytes."""
    settings = QUERY.replace("NAME", "noise_stability").replace("}", ", options: {samples: 3}}")
    scores = []
    with torch.enable_grad():
        first_round(lplgrad, tmp_path)
    for _ in range(2):
        status, said = query(lplgrad, tmp_path, settings)
        assert status == 0, said
        scores.append((tmp_path / "round1" / "scores.csv").read_bytes())
    assert scores[0] == scores[1]
    assert len((tmp_path / "round1" / "next_labeled.csv").read_text().splitlines()) == 1 + 6 + 6
