"""Training: the pair loss by hand, what reaches which network, schedules, and the optimiser against PyTorch's."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad.machine.errors import UserError
from lplgrad.rounds import loop
from lplgrad.rounds.loop import Epoch, Optimizer, learning_rate, pair_loss, train
from lplgrad.rounds.networks import Networks, first_networks
from lplgrad.study.settings import Augmentation, Model, Normalization, Recipe, Training
from tests.conftest import CLASSES, small_images

SMALL = Model(name="small_resnet", width=4)
IMAGES = small_images(21, 5)
PLAIN = Training(epochs=3, batch_size=8, milestones=[])


def networks(auxiliary: bool, round_number: int = 1) -> Networks:
    return first_networks(SMALL, 1, CLASSES, auxiliary, seed=1, round_number=round_number)


def run(trained: Networks, training: Training = PLAIN, recipe: Recipe | None = None, **changes: Any) -> list[Epoch]:
    return list(
        train(
            trained,
            torch.from_numpy(IMAGES.images),
            torch.from_numpy(IMAGES.labels),
            training,
            recipe or Recipe(auxiliary=trained.auxiliary is not None),
            changes.get("augmentation", Augmentation(crop_padding=1, horizontal_flip=True)),
            Normalization(mean=[0.5], std=[0.25]),
            np.random.default_rng(changes.get("batches", 0)),
            np.random.default_rng(changes.get("augmenting", 0)),
            changes.get("precision", "float32"),
        )
    )


def state(trained: Networks) -> list[Tensor]:
    return [tensor.clone() for network in trained.named().values() for tensor in network.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


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


class TestDetaching:
    """The pair loss reaches the main model until 0.6 of the epochs have passed, and not after."""

    def test_attached_features_carry_it_to_the_main_model_and_detached_ones_do_not(self) -> None:
        for attached in (True, False):
            trained = networks(auxiliary=True)
            assert trained.auxiliary is not None
            stages = trained.model.stages(torch.randn(4, 1, 8, 8))
            predicted = trained.auxiliary(stages if attached else [stage.detach() for stage in stages])
            torch.autograd.backward(pair_loss(predicted, torch.arange(4.0), 1.0))
            reached = [parameter.grad is not None for parameter in trained.model.parameters()]
            assert any(reached) == attached
            assert all(parameter.grad is not None for parameter in trained.auxiliary.parameters())

    def test_attached_it_changes_the_main_model(self) -> None:
        with_pairs, without = networks(auxiliary=True), networks(auxiliary=True)
        run(with_pairs, recipe=Recipe(auxiliary=True, lambda_=1.0, detach_after=1.0))
        run(without, recipe=Recipe(auxiliary=True, lambda_=0.0, detach_after=1.0))
        assert not same(state(Networks(with_pairs.model)), state(Networks(without.model)))

    def test_the_epoch_after_which_it_is_detached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attached = []
        trained = networks(auxiliary=True)
        assert trained.auxiliary is not None
        real = trained.auxiliary.forward

        def spy(stages: list[Tensor]) -> Tensor:
            attached.append(stages[0].requires_grad)
            return real(stages)

        monkeypatch.setattr(trained.auxiliary, "forward", spy)
        run(trained, Training(epochs=10, batch_size=21, milestones=[]))
        assert attached == [True] * 7 + [False] * 3  # epochs count from 0; detached where epoch > 0.6 * 10

    def test_joint_training_without_pair_loss_is_plain_training(self) -> None:
        joint, plain = networks(auxiliary=True), networks(auxiliary=False)
        run(joint, recipe=Recipe(auxiliary=True, lambda_=0.0))
        run(plain)
        assert same(state(Networks(joint.model)), state(plain))


class TestOptimizer:
    def test_it_is_pytorchs_sgd(self) -> None:
        """Against torch.optim.SGD with MultiStepLR over several steps."""
        training = Training(epochs=4, learning_rate=0.3, milestones=[2, 3], decay=0.1)
        ours, theirs = (torch.nn.Linear(3, 2) for _ in range(2))
        theirs.load_state_dict(ours.state_dict())
        optimizer = Optimizer(ours, training)
        reference = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.MultiStepLR(reference, [2, 3], gamma=0.1)
        for epoch in range(4):
            for step in range(3):
                x = torch.full((5, 3), float(epoch + step))
                for layer in (ours, theirs):
                    torch.autograd.backward(layer(x).square().mean())
                optimizer.step(learning_rate(training, epoch))
                reference.step()
                reference.zero_grad()
            schedule.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        assert all(parameter.grad is None for parameter in ours.parameters())

    def test_milestones(self) -> None:
        training = Training(epochs=200, learning_rate=0.1, milestones=[160])
        rates = [learning_rate(training, epoch) for epoch in (0, 159, 160, 199)]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])

    def test_the_auxiliary_schedule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rates: list[float] = []
        real = Optimizer.step

        def spy(optimizer: Optimizer, rate: float) -> None:
            rates.append(rate)
            real(optimizer, rate)

        monkeypatch.setattr(Optimizer, "step", spy)
        training = Training(epochs=2, batch_size=21, learning_rate=0.1, milestones=[1])
        run(networks(auxiliary=True), training, Recipe(auxiliary=True, auxiliary_schedule="stepped"))
        run(networks(auxiliary=True), training, Recipe(auxiliary=True, auxiliary_schedule="constant"))
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.1, 0.1, 0.01, 0.1])  # main, auxiliary, main, ...


class TestStreams:
    def test_same_streams_same_bytes(self) -> None:
        one, two = networks(auxiliary=True), networks(auxiliary=True)
        assert run(one) == run(two)
        assert same(state(one), state(two))

    @pytest.mark.parametrize("stream", ["batches", "augmenting"])
    def test_each_stream_matters(self, stream: str) -> None:
        one, two = networks(auxiliary=False), networks(auxiliary=False)
        run(one)
        changes: dict[str, Any] = {stream: 1}
        run(two, **changes)
        assert not same(state(one), state(two))

    def test_the_global_generators_are_left_alone(self) -> None:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002 - to see that it is not used
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        run(networks(auxiliary=True))
        after = torch.random.get_rng_state(), np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])

    def test_recipes_and_rounds_start_from_the_weights_they_should(self) -> None:
        plain, joint = networks(auxiliary=False), networks(auxiliary=True)
        assert same(state(plain), state(Networks(joint.model)))
        assert not same(state(plain), state(networks(auxiliary=False, round_number=2)))


def test_training_learns() -> None:
    trained = networks(auxiliary=True)
    epochs = run(trained, Training(epochs=40, batch_size=8, milestones=[30], learning_rate=0.05))
    assert epochs[-1].loss < 0.4 * epochs[0].loss
    assert [epoch.number for epoch in epochs] == list(range(1, 41))
    assert epochs[0].pair_loss is not None
    assert run(networks(auxiliary=False))[0].pair_loss is None


def test_a_last_batch_of_one_is_trained_on() -> None:
    """21 images in batches of 20: the last has no pair, and its pair loss is 0, not NaN."""
    epochs = run(networks(auxiliary=True), Training(epochs=2, batch_size=20, milestones=[]))
    assert all(math.isfinite(epoch.loss + (epoch.pair_loss or 0)) for epoch in epochs)


def test_batch_norms_count_every_step_in_every_epoch() -> None:
    """As PyTorch's own layers do, in three batches an epoch; the counts are part of a checkpoint."""
    trained, counts = networks(auxiliary=False), []
    images, labels = torch.from_numpy(IMAGES.images), torch.from_numpy(IMAGES.labels)
    streams = np.random.default_rng(0), np.random.default_rng(0)
    for _ in train(
        trained, images, labels, PLAIN, Recipe(), Augmentation(), Normalization(mean=[0.5], std=[0.25]), *streams
    ):
        state = trained.model.state_dict()
        counts.append({int(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")})
    assert counts == [{3}, {6}, {9}]


def test_no_step_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device a value that the host reads raises. Only the losses at the end of an epoch may be read."""
    meta, copies = torch.device("meta"), []

    def copy_to(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
        copies.append(array)
        return torch.from_numpy(array).to(device)

    monkeypatch.setattr(loop, "to_tensor", copy_to)
    monkeypatch.setattr(loop, "sgd", lambda *_, **__: None)  # has no kernel for this device
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know it
    monkeypatch.setattr(Tensor, "tolist", lambda totals: [0.0] * len(totals))
    images, labels = (torch.from_numpy(array).to(meta) for array in (IMAGES.images, IMAGES.labels))
    settings = PLAIN, Recipe(auxiliary=True), Augmentation(horizontal_flip=True), Normalization(mean=[0.5], std=[0.25])
    streams = np.random.default_rng(0), np.random.default_rng(0)
    assert len(list(train(networks(auxiliary=True).to(meta), images, labels, *settings, *streams))) == PLAIN.epochs
    assert len(copies) == PLAIN.epochs, "one copy to the GPU an epoch"


class Standardised(torch.nn.Module):
    """Batch norm in train mode, by its formula."""

    def __init__(self, norm: torch.nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + self.eps).sqrt()
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_the_gradients_of_a_batch_of_one(count: int) -> None:
    """PyTorch's batch norm may mistake the layout of one image on the CPU; that of our models it does not."""
    model = networks(auxiliary=False).to(torch.device("cpu")).model.double().train()
    reference = copy.deepcopy(model)
    for name, layer in list(reference.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(reference.get_submodule(parent), child, Standardised(layer))
    images = torch.randn(count, 8, 8, 1, dtype=torch.float64).permute(0, 3, 1, 2)
    gradients = [
        torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
        for network in (model, reference)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_a_loss_that_is_no_number_says_in_which_epoch() -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) after epoch [1-3] of 3; lower training.learning_rate"):
        run(networks(auxiliary=False), Training(epochs=3, batch_size=8, milestones=[], learning_rate=1e30))


def test_bfloat16_trains_too() -> None:
    trained = networks(auxiliary=True)
    epochs = run(trained, Training(epochs=20, batch_size=8, milestones=[], learning_rate=0.05), precision="bfloat16")
    assert epochs[-1].loss < epochs[0].loss
    assert all(tensor.dtype != torch.bfloat16 for tensor in state(trained))
