"""The training loop: streams, epochs and steps, counters of batch norms, and when the host waits for a GPU."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.recipes import Draw, Measured, Spec, plain
from lplgrad.rounds import draws as draws_module
from lplgrad.rounds import optimizers
from lplgrad.rounds.checkpoints import to_device
from lplgrad.rounds.loop import train
from lplgrad.study.settings import BackboneRow, Training
from tests.learners import JOINT, LABELED, PLAIN, TRAINING, UNLABELED, draws_of, learner_of, run, same, state

DROPOUT = BackboneRow.model_validate({"name": "small_resnet", "width": 4, "dropout": 0.5})


class TestStreams:
    def test_same_streams_same_bytes(self) -> None:
        one, two = learner_of(JOINT), learner_of(JOINT)
        assert run(one) == run(two)
        assert same(state(one), state(two))

    @pytest.mark.parametrize("purpose", [Purpose.BATCHES, Purpose.AUGMENTATION, "modules in epoch 1"])
    def test_each_stream_matters(self, purpose: Purpose | str) -> None:
        one, two = learner_of(PLAIN, DROPOUT), learner_of(PLAIN, DROPOUT)
        run(one)
        run(two, stream_of=lambda asked: stream(2 if asked == purpose else 1, asked))
        assert not same(state(one), state(two))

    @pytest.mark.parametrize("backbone", [DROPOUT, BackboneRow.model_validate({**DROPOUT.model_dump(), "dropout": 0})])
    def test_the_global_generators_are_left_alone(self, backbone: BackboneRow) -> None:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002 - to see that it is not used
        random.seed(3)
        legacy: Any = np.random
        before = torch.random.get_rng_state(), legacy.get_state()[1].copy(), random.getstate()
        run(learner_of(JOINT, backbone))
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert np.array_equal(before[1], legacy.get_state()[1])
        assert before[2] == random.getstate()

    def test_dropout_does_not_depend_on_the_global_generator(self) -> None:
        found = []
        for seed in (3, 4):
            torch.manual_seed(seed)
            learner = learner_of(PLAIN, DROPOUT)
            run(learner)
            found.append(state(learner))
        assert same(*found)
        without = learner_of(PLAIN)
        run(without)
        assert not same(found[0], state(without))

    def test_every_epoch_drops_other_features(self) -> None:
        learner, seen = learner_of(PLAIN, DROPOUT), []
        dropout = learner.model.get_submodule("dropout")
        dropout.register_forward_hook(lambda _, given, made: seen.append((made == 0) & (given[0] != 0)))
        run(learner, Training(epochs=2, batch_size=LABELED, milestones=[]))
        assert not torch.equal(*seen)


def test_training_learns() -> None:
    epochs = run(learner_of(JOINT), Training(epochs=40, batch_size=8, milestones=[30], learning_rate=0.05))
    assert epochs[-1].means["loss"] < 0.4 * epochs[0].means["loss"]
    assert [epoch.number for epoch in epochs] == list(range(1, 41))
    assert set(epochs[0].means) == {"loss", "pair loss"}
    assert set(run(learner_of(PLAIN))[0].means) == {"loss"}


class TestEpochs:
    def test_batch_norms_count_every_step_in_every_epoch(self) -> None:
        """As PyTorch's own layers do, in three batches an epoch; the counts are part of a checkpoint."""
        learner, counts = learner_of(PLAIN), []
        for _ in train(learner, draws_of(), TRAINING):
            tensors = learner.model.state_dict()
            counts.append({int(tensor) for name, tensor in tensors.items() if name.endswith("num_batches_tracked")})
            assert all(t.dtype == torch.int64 for name, t in tensors.items() if name.endswith("num_batches_tracked"))
        assert counts == [{3}, {6}, {9}]

    @pytest.mark.parametrize("steps", [1, 3, 7])
    def test_a_recipe_says_how_many_steps_an_epoch_has(self, steps: int) -> None:
        """With 21 examples in batches of 8 a pass has three steps: 7 steps are two passes and a step."""
        learner = watching(steps)
        training = Training(epochs=2, batch_size=8, milestones=[], learning_rate=0.5, schedule="cosine")
        epochs = run(learner, training)
        assert len(learner.seen) == 2 * steps
        for epoch in range(2):
            of_epoch = learner.seen[epoch * steps : (epoch + 1) * steps]
            assert [size for size, *_ in of_epoch] == ([8, 8, 5] * 3)[:steps]
            assert {number for _, number, *_ in of_epoch} == {epoch}
            progress = [done for *_, done, _ in of_epoch]
            assert progress == pytest.approx([(epoch + step / steps) / 2 for step in range(steps)])
            rates = [rate for *_, rate in of_epoch]
            expected = [optimizers.learning_rate(training, epoch, step, steps) for step in range(steps)]
            assert rates == expected
            assert epochs[epoch].learning_rate == rates[-1]

    def test_zero_steps_end_the_training(self) -> None:
        learner = watching([3, 3, 0])
        epochs = run(learner, Training(epochs=9, batch_size=8, milestones=[]))
        assert [epoch.number for epoch in epochs] == [1, 2]
        assert learner.ended == 1

    def test_what_steps_measure_is_averaged_over_its_own_terms(self) -> None:
        learner = watching(3)
        (epoch,) = run(learner, Training(epochs=1, batch_size=8, milestones=[]))
        assert epoch.means["size"] == pytest.approx((8 + 8 + 5) / 3)
        assert epoch.means["in two steps"] == pytest.approx((8 + 8) / 2)
        assert epoch.means["never"] == 0

    def test_it_is_told_how_many_examples_there_are(self) -> None:
        learner = watching(1)
        run(learner)
        assert learner.asked == [(epoch, LABELED, UNLABELED) for epoch in range(TRAINING.epochs)]

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_a_network_that_no_step_trains_keeps_every_bit(self, precision: str) -> None:
        learner = with_spectator()
        before = state(learner)
        run(learner, precision=precision)
        after = state(learner)
        idle, model = ({name: t for name, t in after.items() if name.startswith(one)} for one in ("idle", "model"))
        assert idle
        assert all(torch.equal(tensor, before[name]) for name, tensor in idle.items())
        assert not all(torch.equal(tensor, before[name]) for name, tensor in model.items())


class TestStages:
    """A training of two stages: a stage is like a training, and the last one draws as if it were the only one."""

    def test_each_takes_all_epochs_with_their_learning_rates(self) -> None:
        learner = watching(2)
        learner.stages = 2
        training = Training(epochs=2, batch_size=8, milestones=[], learning_rate=0.5, schedule="cosine")
        epochs = run(learner, training)
        assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
        assert learner.begun == [(0, 0), (1, 4)], "each stage once, the second after four steps"
        assert learner.seen[:4] == learner.seen[4:]
        assert learner.asked[:2] == learner.asked[2:]
        rates = [optimizers.learning_rate(training, epoch, step, 2) for epoch in range(2) for step in range(2)]
        assert [rate for *_, rate in learner.seen] == [*rates, *rates]
        assert learner.ended == 1

    def test_a_last_stage_alone_trains_as_a_training_without_stages(self) -> None:
        staged, plain_one = learner_of(PLAIN, DROPOUT), learner_of(PLAIN, DROPOUT)
        real, first = staged.step, list[Tensor]()

        def step(draw: Draw) -> Measured:
            if draw.stage:
                return real(draw)
            draw.labeled("other")
            first.append(torch.rand(1))
            return {"loss": (torch.ones(()), 1)}

        staged.stages, staged.step = 2, step  # type: ignore[method-assign]
        epochs, expected = run(staged), run(plain_one)
        assert [epoch.means for epoch in epochs[TRAINING.epochs :]] == [epoch.means for epoch in expected]
        assert same(state(staged), state(plain_one))
        assert len(set(torch.cat(first).tolist())) == len(first), "every epoch of a stage has its own draws"


class Watching(plain.Learner):
    """The plain recipe with another number of steps, and a note of each."""

    per_epoch: int | list[int] = 1

    def __init__(self, spec: Spec, options: Any) -> None:
        super().__init__(spec, options)
        self.seen: list[tuple[int, int, float, float]] = []
        self.asked: list[tuple[int, int, int]] = []
        self.ended = 0
        self.begun: list[tuple[int, int]] = []

    def begin_stage(self, stage: int, draw: Draw) -> None:
        self.begun.append((stage, len(self.seen)))

    def steps(self, draw: Draw) -> int:
        self.asked.append((draw.epoch, draw.labeled_count, draw.unlabeled_count))
        return self.per_epoch if isinstance(self.per_epoch, int) else self.per_epoch[draw.epoch]

    def step(self, draw: Draw) -> Measured:
        inputs, _ = draw.labeled()
        size, last = torch.tensor(float(len(inputs))), len(inputs) < 8
        self.seen.append((len(inputs), draw.epoch, draw.progress, draw.rate))
        return {
            "loss": (size, len(inputs)), "size": (size, 1), "in two steps": (size * (not last), int(not last)),
            "never": (size * 0, 0),
        }  # fmt: skip

    def end(self, draw: Draw) -> None:
        self.ended += 1


class Spectator(plain.Learner):
    """The plain recipe beside a network that runs, but is not trained."""

    def build(self) -> dict[str, nn.Module]:
        return {**super().build(), "idle": self.spec.network(None)}

    def step(self, draw: Draw) -> Measured:
        self.networks["idle"].eval()
        with torch.no_grad():
            self.networks["idle"](draw.labeled("other")[0])
        measured = super().step(draw)
        self.optimizers["idle"].step(draw.rate)
        return measured


def made(kind: Any) -> Any:
    """A learner of a class that no recipe has, with the small backbone's first weights."""
    from lplgrad.backbones._network import initialize

    spec = learner_of(PLAIN).spec
    with torch.device("meta"):
        learner = kind(spec, None)
    for network in learner.networks.values():
        initialize(network, torch.Generator().manual_seed(1))
    return to_device(learner, torch.device("cpu"))


def watching(per_epoch: int | list[int]) -> Any:
    learner = made(Watching)
    learner.per_epoch = per_epoch
    return learner


def with_spectator() -> Any:
    return made(Spectator)


def test_no_step_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device a value that the host reads raises. Only the losses at the end of an epoch may be read."""
    meta, copies = torch.device("meta"), []

    def copy_to(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
        copies.append(array)
        return torch.from_numpy(array).to(device)

    monkeypatch.setattr(draws_module, "to_tensor", copy_to)
    monkeypatch.setattr(optimizers, "sgd", lambda *_, **__: None)  # has no kernel for this device
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know it
    monkeypatch.setattr(Tensor, "tolist", lambda totals: [0.0] * len(totals))
    learner = to_device(learner_of(JOINT), meta)
    draws = draws_of(device=meta, augmentation={"horizontal_flip": True})
    assert len(list(train(learner, draws, TRAINING))) == TRAINING.epochs
    assert len(copies) == TRAINING.epochs, "one copy to the GPU an epoch"


@pytest.mark.parametrize("recipe", [PLAIN, JOINT])
def test_a_loss_that_is_no_number_says_in_which_epoch(recipe: Any) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) after epoch [1-3] of 3; lower the learning rate"):
        run(learner_of(recipe), Training(epochs=3, batch_size=8, milestones=[], learning_rate=1e30))


def test_bfloat16_trains_too() -> None:
    learner = learner_of(JOINT)
    training = Training(epochs=20, batch_size=8, milestones=[], learning_rate=0.05)
    epochs = run(learner, training, precision="bfloat16")
    assert epochs[-1].means["loss"] < epochs[0].means["loss"]
    assert all(tensor.dtype != torch.bfloat16 for tensor in state(learner).values())
