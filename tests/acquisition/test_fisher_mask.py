"""FisherMask: gradients and masks against autograd for one example after another, and choices against BAIT.

scikit-activeml 1.0 has no such query to compare with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lplgrad.acquisition import Candidates, Choice, bait, choice_of, fisher_mask
from lplgrad.acquisition.fisher_mask import ACQUISITION, Mask, Options, find_mask, gradients
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.recipes import Learner
from lplgrad.rounds.needs import measure
from lplgrad.study.settings import BackboneRow, RecipeRow
from tests.by_hand import QUERY, Call, first_round, query
from tests.learners import PLAIN, learner_of

MLP = BackboneRow.model_validate({"name": "mlp", "hidden": [5]})
VECTORS = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))


def measured(
    learner: Learner, inputs: Tensor = VECTORS, mask: Mask | None = None, seed: int = 0, **options: Any
) -> Tensor:
    mask = mask or Mask(Options(**options))
    with torch.no_grad():
        return gradients(learner, lambda: inputs.split(5), mask, np.random.default_rng(seed))


def learner_with(model: nn.Module, classes: int = 4) -> Learner:
    return cast("Learner", SimpleNamespace(reported=model.eval(), spec=SimpleNamespace(classes=classes)))


def vector_learner(recipe: RecipeRow = PLAIN) -> Learner:
    learner = learner_of(recipe, MLP, (3,))
    for network in learner.networks.values():
        network.eval()
    return learner


def by_autograd(model: nn.Module, one: Tensor) -> Tensor:
    """Gradients of the logarithm of each probability at all weights that train, shape (C, P)."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    rows = []
    for logarithm in model(one[None]).log_softmax(dim=1)[0]:
        found = torch.autograd.grad(logarithm, weights, retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def diagonal(model: nn.Module, inputs: Tensor) -> Tensor:
    """The diagonal Fisher information, summed over examples, by its definition."""
    p = model(inputs).softmax(dim=1).detach()
    each = [p[i] @ by_autograd(model, one).square() for i, one in enumerate(inputs)]
    return torch.stack(each).sum(dim=0)


def places(model: nn.Module, entries: dict[str, Tensor]) -> list[int]:
    """The places of a mask among all weights that train."""
    found, start = [], 0
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            found += [start + place for place in entries.get(name, torch.zeros(0)).tolist()]
            start += weight.numel()
    return found


@pytest.mark.parametrize("recipe", [PLAIN, RecipeRow.model_validate({"trains": "ensemble", "members": 2})])
def test_mask_and_gradients_are_those_of_autograd(recipe: RecipeRow) -> None:
    """Also of an ensemble, whose reported prediction is the mean of softmaxes."""
    learner = vector_learner(recipe)
    model = learner.reported
    mask = Mask(Options(parameters=11, classes_per_example=2))
    found = measured(learner, mask=mask)
    assert found.shape == (14, 2, 11)
    assert found.dtype == torch.float32
    assert mask.entries is not None
    best = places(model, mask.entries)
    assert best == diagonal(model, VECTORS).argsort(descending=True)[:11].sort().values.tolist()
    p = model(VECTORS).softmax(dim=1).detach()
    for i, one in enumerate(VECTORS):
        first, second = p[i].argsort(descending=True).tolist()[:2]
        expected = by_autograd(model, one)[[first, second]][:, best] * p[i, [first, second]].sqrt()[:, None]
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-6)


def test_images() -> None:
    """With convolutions and batch norm, whose statistics stay."""
    learner = learner_of()
    learner.model.eval()
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = Mask(Options(parameters=30, classes_per_example=4, mask_examples=6))
    found = measured(learner, images, mask)
    assert mask.entries is not None
    best = places(learner.model, mask.entries)
    assert len(best) == 30
    values = diagonal(learner.model, images)
    assert values[best].min() >= values.sort(descending=True).values[29] * (1 - 1e-5)
    p = learner.model(images).softmax(dim=1).detach()
    for i, one in enumerate(images):
        order = p[i].argsort(descending=True)
        expected = by_autograd(learner.model, one)[order][:, best] * p[i, order].sqrt()[:, None]
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-5)


def test_a_class_is_drawn_from_the_prediction() -> None:
    """Over many draws, the mean of the outer products is the sum over all classes weighted by their probabilities."""
    learner = vector_learner()
    copies = VECTORS[:1].expand(20_000, -1)
    mask = Mask(Options(parameters=6))
    with torch.no_grad():
        drawn = gradients(learner, lambda: copies.split(10_000), mask, np.random.default_rng(0))[:, 0]
    every = Mask(Options(parameters=6, classes_per_example=4))
    every.entries = mask.entries
    exact = measured(learner, VECTORS[:1], every)[0]
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), exact.T @ exact, rtol=0.05, atol=2e-3)
    order = learner.model(VECTORS[:1]).softmax(dim=1)[0].detach().sort(descending=True).values
    nearest = torch.cdist(drawn, exact / order.sqrt()[:, None]).argmin(dim=1)
    torch.testing.assert_close(nearest.bincount(minlength=4) / len(drawn), order, rtol=0, atol=0.015)


def test_batches_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = vector_learner()
    expected = measured(learner, parameters=9)
    for at_once in (1, 100):
        monkeypatch.setattr(fisher_mask, "AT_ONCE", at_once)
        with torch.no_grad():
            found = gradients(learner, lambda: VECTORS.split(3), Mask(Options(parameters=9)), np.random.default_rng(0))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_labelled_examples_have_the_mask_of_the_candidates() -> None:
    """As the query measures them: one after the other, with the argument of the need, and each from the same stream."""
    learner = vector_learner()
    needs = ACQUISITION.needs(Options(parameters=5))
    mask = needs["own:gradients"]
    assert mask is needs["labeled:own:gradients"]
    assert ACQUISITION.needs(Options())["own:gradients"] is not mask

    def of(some: Tensor) -> Tensor:
        streams = {"own:gradients": np.random.default_rng(3)}
        wanted = {"own:gradients": mask}
        found = measure(ACQUISITION, wanted, learner, None, lambda: [some], 4, streams.__getitem__)  # type: ignore[arg-type]
        return cast("Tensor", found["own:gradients"])

    found = [of(VECTORS[:9]), of(VECTORS)]
    alone = Mask(Options(parameters=5))
    with torch.no_grad():
        alone.entries = find_mask(learner.reported, lambda: [VECTORS[:9]], alone.options, np.random.default_rng(3))
    assert mask.entries is not None
    assert all(torch.equal(mask.entries[name], one) for name, one in alone.entries.items())
    assert found[0].shape == (9, 1, 5)
    assert found[1].shape == (14, 1, 5)
    assert not torch.equal(found[0], found[1][:9]), "the classes are drawn independently"


def test_labelled_examples_share_no_random_numbers_with_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query gives both a stream that starts at the same place; here, finding the mask takes nothing from it."""
    learner = vector_learner()
    entries = {"head.bias": torch.arange(4)}
    monkeypatch.setattr(fisher_mask, "find_mask", lambda *_: entries)
    copies, mask = VECTORS[:1].expand(60, -1), Mask(Options())
    candidates, labeled = (measured(learner, copies, mask, seed=3) for _ in range(2))
    assert torch.equal(candidates, measured(learner, copies, Mask(Options()), seed=3))
    assert not torch.equal(candidates, labeled)


def test_random_examples_find_the_mask() -> None:
    learner = vector_learner()

    def mask_of(seed: int, **options: Any) -> list[int]:
        with torch.no_grad():
            entries = find_mask(
                learner.reported, lambda: VECTORS.split(4), Options(**options), np.random.default_rng(seed)
            )
        return places(learner.model, entries)

    assert mask_of(0, parameters=5, mask_examples=3) == mask_of(0, parameters=5, mask_examples=3)
    assert len({tuple(mask_of(seed, parameters=5, mask_examples=1)) for seed in range(9)}) > 1
    assert mask_of(0, parameters=5) == mask_of(1, parameters=5), "of all examples"
    assert mask_of(0) == list(range(sum(weight.numel() for weight in learner.model.parameters())))


class Tied(nn.Module):
    """Two layers with one weight, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4)
        self.second.weight = self.first.weight
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.frozen(self.second(self.first(inputs).relu_()))
        return found


def test_a_shared_weight_counts_once_and_a_frozen_one_not_at_all() -> None:
    model = Tied()
    mask = Mask(Options(parameters=1000, classes_per_example=4))
    found = measured(learner_with(model), mask=mask)
    assert mask.entries is not None
    assert list(mask.entries) == ["first.weight", "first.bias", "second.bias"]
    p = model(VECTORS).softmax(dim=1).detach()
    order = p[2].argsort(descending=True)
    expected = by_autograd(model, VECTORS[2])[order] * p[2, order].sqrt()[:, None]
    torch.testing.assert_close(found[2], expected, rtol=1e-4, atol=1e-6)


def test_networks_are_left_as_they_were() -> None:
    learner = learner_of()
    learner.model.eval()
    next(learner.model.parameters()).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    training = [weight.requires_grad for weight in learner.model.parameters()]
    images = torch.randn(6, 1, 8, 8)
    kept = images.clone()
    measured(learner, images, parameters=20)
    after = learner.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [weight.requires_grad for weight in learner.model.parameters()] == training
    assert all(weight.grad is None for weight in learner.model.parameters())
    assert not any(module.training for module in learner.model.modules())
    assert torch.equal(images, kept)


def candidates_of(inputs: Tensor, labeled: Tensor, query_size: int = 4) -> Candidates:
    given = {"own:gradients": inputs, "labeled:own:gradients": labeled}
    return Candidates(np.arange(len(inputs)) * 2, 1, 1, query_size, given)


def choose(candidates: Candidates, **options: Any) -> Choice:
    return choice_of(ACQUISITION, candidates, Options(**options))


@pytest.mark.parametrize("oversample", [1, 2])
def test_all_weights_of_a_linear_model_and_all_classes_give_bait(oversample: int) -> None:
    """Its full form with bias, from the formula of the information of a last layer."""
    learner = learner_of(PLAIN, BackboneRow(name="linear"), (3,))
    others = torch.randn(6, 3, generator=torch.Generator().manual_seed(7))
    mask = Mask(Options(classes_per_example=4))
    found = candidates_of(measured(learner, VECTORS, mask), measured(learner, others, mask))
    with torch.no_grad():
        given = {"features": VECTORS, "logits": learner.model(VECTORS)}
        given |= {"labeled:features": others, "labeled:logits": learner.model(others)}
    expected = choice_of(
        bait.ACQUISITION, replace(found, measured=given), bait.Options(form="full", bias=True, oversample=oversample)
    )
    choice = choose(found, classes_per_example=4, oversample=oversample)
    assert choice.picks.tolist() == expected.picks.tolist()
    assert choice.scores is not None
    assert expected.scores is not None
    np.testing.assert_allclose(choice.scores, expected.scores, rtol=1e-4)


def test_certain_predictions_have_no_information() -> None:
    """Without the weights p_c, as in the official code, they would have most."""
    learner = learner_of(PLAIN, BackboneRow(name="linear"), (3,))
    with torch.no_grad():
        learner.model.get_parameter("head.weight").mul_(1e4)
    found = measured(learner, classes_per_example=4)
    assert bool(found.isfinite().all())
    assert found.abs().max() < 1e-6
    drawn = measured(learner)
    assert bool(drawn.isfinite().all())


@pytest.mark.parametrize("shape", [(1, 6), (3, 6)])
def test_picks_are_those_of_brute_force(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    candidates = candidates_of(torch.randn(20, *shape, generator=draw), torch.randn(7, *shape, generator=draw))
    each, known = ([one.T @ one for one in candidates[need].double().numpy()] for need in candidates.measured)
    target, prior = np.mean(each + known, axis=0), 0.1 * np.eye(6) + np.sum(known, axis=0) / 11

    def objective(chosen: list[int]) -> float:
        matrix: npt.NDArray[np.float64] = prior + 4 / 11 * np.sum([each[one] for one in chosen], axis=0)
        return float(np.trace(np.linalg.solve(matrix, target)))

    chosen: list[int] = []
    for _ in range(4):
        chosen.append(min((objective([*chosen, one]), one) for one in range(20) if one not in chosen)[1])
    assert choose(candidates, regularization=0.1).picks.tolist() == chosen


@pytest.mark.parametrize("labeled", [0, 7])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_duplicates_and_examples_without_information(labeled: int, value: float) -> None:
    same = torch.full((12, 2, 6), value)
    different = torch.randn(12, 2, 6, generator=torch.Generator().manual_seed(0))
    moved = np.random.default_rng(0).permutation(12)
    for query_size in (0, 1, 5, 12):
        for oversample in (1, 2):
            asked = candidates_of(same, torch.ones(labeled, 2, 6), query_size)
            assert choose(asked, oversample=oversample).picks.tolist() == list(range(query_size))
            asked = candidates_of(different, torch.ones(labeled, 2, 6), query_size)
            turned = replace(
                asked,
                indices=asked.indices[moved],
                measured={**asked.measured, "own:gradients": different[torch.from_numpy(moved)]},
            )
            picks = choose(asked, oversample=oversample).picks.tolist()
            assert len(set(picks)) == query_size
            assert moved[choose(turned, oversample=oversample).picks].tolist() == picks


def test_gradients_that_are_not_finite_are_no_choice() -> None:
    gradient = torch.randn(12, 1, 6)
    gradient[3, 0, 2] = torch.nan
    with pytest.raises(FloatingPointError):
        choose(candidates_of(gradient, torch.ones(2, 1, 6)))
    learner = vector_learner()
    inputs = VECTORS.clone()
    inputs[4] = torch.nan
    assert not bool(measured(learner, inputs).isfinite().all()), "the choice refuses them"


def test_a_query(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
    """Of a whole round; and BAIT says what to do if it needs too much memory, and writes nothing."""
    first_round(lplgrad, tmp_path)
    scores = []
    for _ in range(2):
        settings = QUERY.replace("NAME", "fisher_mask, options: {parameters: 20, mask_examples: 10}")
        status, said = query(lplgrad, tmp_path, settings)
        assert status == 0, said
        scores.append((tmp_path / "round1" / "scores.csv").read_bytes())
    assert scores[0] == scores[1]
    settings = QUERY.replace("NAME", "bait, options: {form: full, memory_gb: 0.00001}")
    status, said = query(lplgrad, tmp_path, settings, output="refused")
    assert status == 1
    assert "write form: binary" in said
    assert not (tmp_path / "refused" / "scores.csv").exists()
