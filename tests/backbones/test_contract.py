"""What every backbone must do. One that needs options of its own, or other inputs, has them in SPECIAL."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lplgrad import backbones, recipes
from lplgrad.acquisition.entropy import entropy
from lplgrad.backbones._network import Network
from lplgrad.gradient_norms import PerSampleGradientNorms
from lplgrad.rounds.checkpoints import build, load, to_device
from lplgrad.study.settings import BackboneRow, RecipeRow
from tests.learners import CPU, learner_of, same, saved, state

# Options and the shape of an input for those that the defaults do not suit, or not alone
SPECIAL: dict[str, list[tuple[dict[str, Any], tuple[int, ...]]]] = {
    "resnet18": [
        ({"width": 4}, (1, 8, 8)),
        ({"width": 4, "stem": "imagenet"}, (3, 32, 32)),
        ({"width": 4, "dropout": 0.5}, (3, 9, 7)),
    ],
    "linear": [({}, (6,))],
    "mlp": [({}, (6,)), ({"hidden": [8], "dropout": 0.5}, (6,))],
    "resnet1d": [({"width": 4}, (2, 12)), ({"width": 4, "dropout": 0.5}, (1, 9))],
    "torchvision": [
        ({"model": "mobilenet_v3_small"}, (3, 32, 32)),
        ({"model": "resnet18", "dropout": 0.5}, (1, 16, 16)),
        ({"model": "shufflenet_v2_x0_5"}, (3, 32, 32)),
    ],
    "small_resnet": [({}, (3, 8, 8)), ({"width": 4, "dropout": 0.5}, (1, 8, 8))],
}
CASES = [
    pytest.param(BackboneRow.model_validate({"name": name, **options}), shape, id=f"{name} {options or ''}".strip())
    for name in backbones.registry.names()
    for options, shape in SPECIAL.get(name, [({}, (3, 32, 32))])
]
PLAIN = RecipeRow(trains="plain")
COUNT, CLASSES = 3, 5
pytestmark = pytest.mark.parametrize(("row", "shape"), CASES)


def model_of(row: BackboneRow, shape: tuple[int, ...], seed: int = 1) -> Network:
    return learner_of(PLAIN, row, shape, CLASSES, seed=seed).model


def inputs_of(shape: tuple[int, ...], count: int = COUNT) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def test_its_row_comes_back_with_all_options(row: BackboneRow, shape: tuple[int, ...]) -> None:
    options = backbones.registry.load(row.name).options.model_fields
    assert set(row.model_dump(by_alias=True)) == {"name", *(field.alias or name for name, field in options.items())}
    assert BackboneRow.model_validate(row.model_dump(by_alias=True)) == row


def test_shapes_of_logits_features_and_stages(row: BackboneRow, shape: tuple[int, ...]) -> None:
    model, inputs = model_of(row, shape).eval(), inputs_of(shape)
    outputs = model.outputs(inputs)
    assert outputs.logits.shape == (COUNT, CLASSES)
    assert outputs.features.shape == (COUNT, model.feature_size)
    assert outputs.stages == []
    assert torch.equal(model(inputs), outputs.logits)
    if "stages" in backbones.registry.load(row.name).offers(row.checked_options):
        with_stages = model.outputs(inputs, stages=True)
        assert [stage.shape for stage in with_stages.stages] == [(COUNT, size) for size in model.stage_sizes]
        assert len(model.stage_sizes) > 0
        assert torch.equal(with_stages.logits, outputs.logits)
    else:
        assert not model.stage_sizes


def test_without_a_head_logits_are_the_features(row: BackboneRow, shape: tuple[int, ...]) -> None:
    backbone = backbones.registry.load(row.name)
    with torch.device("meta"):
        bare, whole = (backbone.build(row.checked_options, shape, classes) for classes in (None, CLASSES))
        outputs = bare.eval().outputs(torch.empty(COUNT, *shape))
    assert outputs.logits.shape == outputs.features.shape == (COUNT, bare.feature_size)
    missing = whole.state_dict().keys() - bare.state_dict().keys()
    assert bare.state_dict().keys() < whole.state_dict().keys()
    head = sum(whole.state_dict()[name].numel() for name in missing)
    assert head == (bare.feature_size + 1) * CLASSES, "the rest has the same names"


def test_outputs_of_an_example_do_not_depend_on_the_others(row: BackboneRow, shape: tuple[int, ...]) -> None:
    model, inputs = model_of(row, shape).eval(), inputs_of(shape)
    with torch.no_grad():
        together = model.outputs(inputs)
        for index in range(COUNT):
            alone = model.outputs(inputs[index : index + 1])
            torch.testing.assert_close(alone.logits[0], together.logits[index], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.features[0], together.features[index], rtol=1e-4, atol=1e-5)


def test_first_weights_come_from_their_own_random_stream(row: BackboneRow, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one = learner_of(PLAIN, row, shape, CLASSES)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was drawn from"
    torch.manual_seed(4)
    assert same(state(one), state(learner_of(PLAIN, row, shape, CLASSES)))
    assert not same(state(one), state(learner_of(PLAIN, row, shape, CLASSES, seed=2)))
    assert all(tensor.isfinite().all() and tensor.device.type == "cpu" for tensor in state(one).values())


def test_every_recipe_that_it_serves_starts_from_the_same_main_model(row: BackboneRow, shape: tuple[int, ...]) -> None:
    """A recipe with a head of its own takes the backbone without its head."""
    offered = backbones.registry.load(row.name).offers(row.checked_options)
    expected = state(learner_of(PLAIN, row, shape, CLASSES))
    for name in recipes.registry.names():
        recipe = RecipeRow(trains=name)
        if recipes.registry.load(name).wants(recipe.checked_options) <= offered:
            learner = learner_of(recipe, row, shape, CLASSES)
            if "model" in learner.networks:
                found = state(learner, ["model"])
                headless = {key: tensor for key, tensor in expected.items() if key in found}
                assert same(found, headless if "head" in learner.networks else expected), name


def test_a_checkpoint_comes_back(row: BackboneRow, shape: tuple[int, ...], tmp_path: Path) -> None:
    learner, inputs = learner_of(PLAIN, row, shape, CLASSES), inputs_of(shape)
    learner.model.train()(inputs)  # running statistics
    for name in ("one", "two"):
        saved(tmp_path / name, learner, row, PLAIN, shape, CLASSES)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found = load(tmp_path / "one")
    assert (found.about.backbone, found.about.shape) == (row, list(shape))
    assert same(state(found.learner), state(learner))
    assert torch.equal(to_device(found.learner, CPU).model.eval()(inputs), learner.model.eval()(inputs))


def test_it_is_built_without_memory(row: BackboneRow, shape: tuple[int, ...]) -> None:
    """A checkpoint is checked against a network on the meta device before anything is allocated."""
    tensors = build(row, PLAIN, shape, CLASSES).model.state_dict().values()
    assert all(tensor.device.type == "meta" for tensor in tensors)


def test_gradients_reach_every_parameter_in_train_mode(row: BackboneRow, shape: tuple[int, ...]) -> None:
    model = model_of(row, shape).train()
    torch.autograd.backward(model(inputs_of(shape, 8)).square().mean())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_dropout_that_is_offered_draws_in_train_mode(row: BackboneRow, shape: tuple[int, ...]) -> None:
    model, inputs = model_of(row, shape).eval(), inputs_of(shape)
    dropouts = [one for one in model.modules() if isinstance(one, nn.modules.dropout._DropoutNd) and one.p > 0]
    offered = "dropout" in backbones.registry.load(row.name).offers(row.checked_options)
    assert dropouts or not offered
    with torch.no_grad(), torch.random.fork_rng():
        assert torch.equal(model(inputs), model(inputs)), "eval mode draws nothing"
        for dropout in dropouts:
            dropout.train()
        assert not (offered and torch.equal(model(inputs), model(inputs)))


def test_gradient_norms_are_exact_or_refused_by_name(row: BackboneRow, shape: tuple[int, ...]) -> None:
    model, inputs = model_of(row, shape), inputs_of(shape)
    with torch.no_grad():
        model.train()(inputs_of(shape, 8))
    model.eval()
    refusal = None
    try:
        with PerSampleGradientNorms(model) as norms_of:
            found = norms_of(inputs, entropy)
    except NotImplementedError as error:
        refusal = str(error)
    if refusal is not None:
        names = [name for name, _ in model.named_modules() if name] + [name for name, _ in model.named_parameters()]
        assert any(name in refusal for name in names), f"names no layer: {refusal}"
        return
    double = copy.deepcopy(model).double()
    parameters = [parameter for parameter in double.parameters() if parameter.requires_grad]
    for sample, total, summed in zip(inputs.double(), found.total, found.sum, strict=True):
        gradients = torch.autograd.grad(entropy(double(sample[None])).sum(), parameters, allow_unused=True)
        norms = torch.stack([gradient.norm() for gradient in gradients if gradient is not None])
        assert float(total) == pytest.approx(float(norms.norm()), rel=1e-3)
        assert float(summed) == pytest.approx(float(norms.sum()), rel=1e-3)
