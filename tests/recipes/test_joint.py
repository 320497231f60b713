"""The joint recipe: the pair loss by hand, the loss prediction module, and what reaches which network."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lplgrad.recipes._loss_prediction import LossPrediction
from lplgrad.recipes.joint import pair_loss
from lplgrad.rounds.optimizers import SGD
from lplgrad.study.settings import BackboneRow, Training
from tests.learners import JOINT, PLAIN, joint, learner_of, run, same, state


class TestPairLoss:
    """Pairs are (i, B-1-i); s is +1 where l_i > l_j, else -1; each costs max(0, margin - s (p_i - p_j))."""

    def test_even_batch_by_hand(self) -> None:
        predicted = torch.tensor([3.0, 1.0, 2.0, 2.5])
        losses = torch.tensor([0.5, 2.0, 1.0, 0.1])
        # (0, 3): l falls, s = 1, p_0 - p_3 = 0.5, costs 0.5. (1, 2): s = 1, p_1 - p_2 = -1, costs 2.
        assert pair_loss(predicted, losses, 1.0).item() == pytest.approx((0.5 + 2) / 2)

    def test_odd_batch_leaves_the_middle_out(self) -> None:
        predicted = torch.tensor([3.0, 1.0, 99.0, 2.0, 2.5])
        losses = torch.tensor([0.5, 2.0, 7.0, 1.0, 0.1])
        assert pair_loss(predicted, losses, 1.0).item() == pytest.approx(1.25)

    def test_a_tie_counts_as_not_greater(self) -> None:
        predicted = torch.tensor([0.0, 0.25])
        assert pair_loss(predicted, torch.tensor([1.0, 1.0]), 1.0).item() == pytest.approx(0.75)
        assert pair_loss(-predicted, torch.tensor([1.0, 1.0]), 1.0).item() == pytest.approx(1.25)

    def test_satisfied_pairs_cost_nothing(self) -> None:
        assert pair_loss(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]), 1.0).item() == 0

    @pytest.mark.parametrize("size", [0, 1])
    def test_without_a_pair_it_is_zero(self, size: int) -> None:
        predicted = torch.ones(size, requires_grad=True)
        loss = pair_loss(predicted, torch.ones(size), 1.0)
        assert loss.item() == 0
        torch.autograd.backward(loss)
        assert predicted.grad is not None
        assert not predicted.grad.any()

    def test_no_gradient_reaches_the_true_losses(self) -> None:
        losses = torch.tensor([1.0, 2.0], requires_grad=True)
        torch.autograd.backward(pair_loss(torch.zeros(2, requires_grad=True), losses, 1.0))
        assert losses.grad is None


def test_loss_prediction_module_is_as_published() -> None:
    """Per pooled stage a layer to 128 and ReLU; the four concatenated, a layer to one number."""
    module = LossPrediction([64, 128, 256, 512])
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert parameters == (64 + 128 + 256 + 512) * 128 + 4 * 128 + 512 + 1
    stages = [torch.randn(3, width) for width in (64, 128, 256, 512)]
    hidden = [torch.relu(layer(stage)) for stage, layer in zip(stages, module.stages, strict=True)]
    expected = torch.cat(hidden, dim=1) @ module.fc.weight[0] + module.fc.bias
    torch.testing.assert_close(module(stages), expected)


@pytest.mark.parametrize("name", ["resnet18", "small_resnet"])
def test_the_module_reads_the_average_of_every_stages_map(name: str) -> None:
    """The paper pools the maps of the stages. Here the backbone does."""
    learner = learner_of(JOINT, BackboneRow.model_validate({"name": name, "width": 4}))
    maps: list[Tensor] = []
    for stage in range(len(learner.model.stage_sizes)):
        layer = learner.model.get_submodule(f"layer{stage + 1}")
        layer.register_forward_hook(lambda _, given, made: maps.append(made))
    for network in learner.networks.values():
        network.eval()
    found = learner.predict(torch.randn(5, 1, 8, 8), frozenset({"predicted_loss"}))["predicted_loss"]
    assert found.shape == (5,)
    expected = learner.networks["auxiliary"]([stage.mean(dim=(2, 3)) for stage in maps])
    torch.testing.assert_close(found, expected)


class TestDetaching:
    """The pair loss reaches the main model until 0.6 of the epochs have passed, and not after."""

    def test_attached_stages_carry_it_to_the_main_model_and_detached_ones_do_not(self) -> None:
        for attached in (True, False):
            learner = learner_of(JOINT)
            stages = learner.model.outputs(torch.randn(4, 1, 8, 8), stages=True).stages
            predicted = learner.networks["auxiliary"](stages if attached else [stage.detach() for stage in stages])
            torch.autograd.backward(pair_loss(predicted, torch.arange(4.0), 1.0))
            reached = [parameter.grad is not None for parameter in learner.model.parameters()]
            assert any(reached) == attached
            assert all(parameter.grad is not None for parameter in learner.networks["auxiliary"].parameters())

    def test_attached_it_changes_the_main_model(self) -> None:
        recipes = [joint(**{"lambda": weight, "detach_after": 1.0}) for weight in (1.0, 0.0)]
        with_pairs, without = map(learner_of, recipes)
        run(with_pairs)
        run(without)
        assert not same(state(with_pairs, ["model"]), state(without, ["model"]))

    def test_the_epoch_after_which_it_is_detached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attached = []
        learner = learner_of(JOINT)
        module = learner.networks["auxiliary"]
        real = module.forward

        def spy(stages: Sequence[Tensor]) -> Tensor:
            attached.append(stages[0].requires_grad)
            predicted: Tensor = real(stages)
            return predicted

        monkeypatch.setattr(module, "forward", spy)
        run(learner, Training(epochs=10, batch_size=21, milestones=[]))
        assert attached == [True] * 7 + [False] * 3  # epochs count from 0; detached where epoch > 0.6 * 10

    def test_joint_training_without_pair_loss_is_plain_training(self) -> None:
        both, plain = learner_of(joint(**{"lambda": 0.0})), learner_of(PLAIN)
        run(both)
        run(plain)
        assert same(state(both, ["model"]), state(plain))


def test_the_auxiliary_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = SGD.step

    def spy(optimizer: SGD, rate: float) -> None:
        rates.append(rate)
        real(optimizer, rate)

    monkeypatch.setattr(SGD, "step", spy)
    training = Training(epochs=2, batch_size=21, learning_rate=0.1, milestones=[1])
    run(learner_of(joint(auxiliary_schedule="stepped")), training)
    run(learner_of(joint(auxiliary_schedule="constant")), training)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.1, 0.1, 0.01, 0.1])  # main, auxiliary, main, ...


def test_a_last_batch_of_one_is_trained_on() -> None:
    """21 images in batches of 20: the last has no pair, and its pair loss is 0, not NaN. It is no term of the mean."""
    learner = learner_of(joint(margin=1000.0, detach_after=0.0))
    for epoch in run(learner, Training(epochs=2, batch_size=20, milestones=[], learning_rate=1e-9)):
        assert torch.isfinite(torch.tensor(list(epoch.means.values()))).all()
        assert epoch.means["pair loss"] == pytest.approx(1000, rel=0.01)


def test_it_is_the_main_model_whose_prediction_is_reported() -> None:
    learner = learner_of(JOINT)
    assert isinstance(learner.reported, nn.Module)
    assert learner.reported is learner.model
