"""VERIPS: which pseudo-labels there are from round to round, and what the two networks are trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lplgrad.acquisition.entropy import entropy
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.randomness import stream
from lplgrad.recipes import Draw, verips
from lplgrad.rounds.checkpoints import load
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.files import PROGRESS
from lplgrad.rounds.loop import Epoch, train
from lplgrad.rounds.resume import Progress
from lplgrad.study.settings import BackboneRow, RecipeRow, Training
from tests import by_hand
from tests.by_hand import Call, of_round
from tests.conftest import TRAIN
from tests.learners import IMAGES, PLAIN, learner_of, same, state, view_of

DROPOUT = BackboneRow.model_validate({"name": "small_resnet", "width": 4, "dropout": 0.3})
TRAINING = Training(epochs=3, batch_size=8, learning_rate=0.05, milestones=[2])
POOL = len(IMAGES.inputs)
ALL = np.arange(POOL)
ANY = 2.0  # above log 4, the highest entropy of four classes


def row(**options: Any) -> RecipeRow:
    return RecipeRow.model_validate({"trains": "verips", **options})


def draws(labeled: int = 10, number: int = 2, unknown: int = 0, backwards: bool = False) -> Draws:
    """The first images have labels, the last ones have been bought without one. Labels of no other image are there."""
    known = ALL[:labeled]
    return Draws(
        torch.from_numpy(IMAGES.inputs[known]),
        torch.from_numpy(IMAGES.labels[known]),
        TRAINING.batch_size,
        view_of(),
        partial(stream, 1, round_number=number),
        None,
        IMAGES.inputs,
        ALL[labeled : POOL - unknown],
        known,
        ALL[POOL - unknown :],
    )


def learner(options: Mapping[str, Any], previous: verips.Learner | None, number: int = 2) -> verips.Learner:
    found = learner_of(row(**options), DROPOUT, round_number=number)
    assert isinstance(found, verips.Learner)
    found.previous = previous
    return found


def first(**options: Any) -> verips.Learner:
    """The learner of round 1."""
    found = learner(options, None, 1)
    list(train(found, draws(5, 1), TRAINING))
    return found


def table(one: verips.Learner) -> dict[int, int]:
    """The pseudo-labels by position."""
    labels = one.state["pseudo_labels"].tolist()
    return {place: label for place, label in zip(one.state["positions"].tolist(), labels, strict=True) if label >= 0}


def spread(classes: int, highest: float, rivals: int) -> Tensor:
    """Logits of a prediction with a highest probability, whose rest some rivals share."""
    p = torch.full((1, classes), 1e-30, dtype=torch.float64)
    p[0, 0], p[0, 1 : 1 + rivals] = highest, (1 - highest) / rivals
    return p.log()


class TestThreshold:
    def test_its_meaning_with_ten_classes(self) -> None:
        limits = [verips.threshold_of(verips.Options(), number) for number in (2, 11)]
        assert limits == pytest.approx([0.05, 0.0203])
        for limit, one_rival, nine_rivals in zip(limits, (0.9913, 0.9970), (0.9940, 0.9978), strict=True):
            for rivals, least in ((1, one_rival), (9, nine_rivals)):
                assert float(entropy(spread(10, least + 1e-4, rivals))) < limit
                assert float(entropy(spread(10, least - 1e-4, rivals))) > limit
        assert float(entropy(spread(10, 0.99, 9))) == pytest.approx(0.0780, abs=5e-5)

    def test_in_the_end_it_is_below_zero(self) -> None:
        options = verips.Options()
        assert [number for number in range(2, 30) if verips.threshold_of(options, number) > 0][-1] == 17


def test_the_loss_is_the_sum_of_two_means() -> None:
    known, pseudo = torch.full((2,), 1.0), torch.full((126,), 3.0)
    assert verips.total_loss(known, pseudo, 1.0).item() == 4
    assert verips.total_loss(known, pseudo, 0.5).item() == 2.5
    assert verips.total_loss(known, pseudo[:0], 1.0).item() == 1
    assert verips.total_loss(known[:0], pseudo, 1.0).item() == 3


@dataclass
class Told:
    """Predictions that a test tells, by network and position."""

    model: Mapping[int, int]  # of the task model of the round before
    verifier: Mapping[int, int] | None = None
    sure: float = 50.0  # the logit of the predicted class

    def logits(
        self, learner: verips.Learner, network: nn.Module, draw: Draw, positions: npt.NDArray[np.int64]
    ) -> Tensor:
        told = self.verifier if network is learner.networks.get("verifier") else self.model
        found = torch.zeros(len(positions), 4)
        for place, position in enumerate(positions.tolist()):
            if told is not None and position in told:
                found[place, told[position]] = self.sure
        return found


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Callable[[Told], None]:
    """Let networks predict what a test tells. All else they do not know."""
    return lambda told: monkeypatch.setattr(
        verips.Learner, "_logits", lambda self, *arguments: told.logits(self, *arguments)
    )


def stages(one: verips.Learner, drawn: Draws) -> Iterator[dict[int, int]]:
    """The pseudo-labels before and after the verifier has seen them, without a training."""
    one.training = TRAINING
    one.begin_stage(0, drawn)
    yield table(one)
    one.begin_stage(1, drawn)
    yield table(one)


class TestPseudoLabels:
    def test_a_pseudo_label_lives_until_it_is_refused_or_bought(self, tell: Callable[[Told], None]) -> None:
        """a is 20 and b is 21: the verifier agrees on a alone. Then a is bought: it has the label of the oracle."""
        one = learner({}, first())
        tell(Told({20: 0, 21: 1}, {20: 0, 21: 2}))
        assert list(stages(one, draws(10))) == [{20: 0, 21: 1}, {20: 0}]
        assert one.state["since"].tolist() == [2 if position == 20 else 0 for position in range(10, POOL)]
        later = learner({}, one, 3)
        tell(Told({}, {20: 0}))
        assert list(stages(later, draws(15, 3))) == [{20: 0}, {20: 0}], "kept, though its model is no longer sure"
        assert int(later.state["since"].max()) == 2
        bought = learner({}, later, 4)
        tell(Told({20: 0, 22: 3}, {20: 0, 22: 3}))
        assert list(stages(bought, draws(21, 4))) == [{22: 3}, {22: 3}]
        drawn = draws(21, 4)
        drawn.begin_epoch(0)
        labels = torch.cat([drawn.labeled()[1] for _ in range(3)])
        assert sorted(labels.tolist()) == sorted(IMAGES.labels[:21].tolist())

    def test_an_example_that_was_bought_with_an_unknown_class_has_none(self, tell: Callable[[Told], None]) -> None:
        last = POOL - 1
        tell(Told({last: 1}, {last: 1}))
        one = learner({}, first())
        assert list(stages(one, draws(10))) == [{last: 1}, {last: 1}]
        assert list(stages(learner({}, one, 3), draws(10, 3, unknown=1))) == [{}, {}]

    def test_a_label_does_not_change_while_it_is_kept(self, tell: Callable[[Told], None]) -> None:
        one = learner({}, first())
        tell(Told({20: 0}, {20: 0}))
        list(stages(one, draws(10)))
        tell(Told({20: 3}, {20: 0}))
        assert list(stages(learner({}, one, 3), draws(10, 3))) == [{20: 0}, {20: 0}]
        assert list(stages(learner({"keep": False}, one, 3), draws(10, 3))) == [{20: 3}, {}], "but anew without keep"

    def test_a_refused_one_may_come_back(self, tell: Callable[[Told], None]) -> None:
        one = learner({}, first())
        tell(Told({20: 0}, {20: 1}))
        assert list(stages(one, draws(10))) == [{20: 0}, {}]
        tell(Told({20: 2}, {20: 2}))
        assert list(stages(learner({}, one, 3), draws(10, 3))) == [{20: 2}, {20: 2}]

    def test_a_verifier_that_predicts_one_class_leaves_that_class(self, tell: Callable[[Told], None]) -> None:
        tell(Told({place: place % 4 for place in range(10, 20)}, dict.fromkeys(range(POOL), 0)))
        _, found = stages(learner({}, first()), draws(10))
        assert found == {12: 0, 16: 0}

    def test_a_verifier_that_is_the_model_refuses_nothing(self) -> None:
        previous = first(threshold=ANY)
        one = learner({"threshold": ANY}, previous)
        one.networks["verifier"].load_state_dict(previous.model.state_dict())
        given, verified = stages(one, draws(10))
        assert list(given) == list(range(10, POOL))
        assert verified == given

    def test_the_most_certain_are_taken_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def logits(one: verips.Learner, network: nn.Module, draw: Draw, positions: npt.NDArray[np.int64]) -> Tensor:
            found = torch.zeros(len(positions), 4)
            found[:, 1] = torch.from_numpy(10 + positions % 5).float()  # 14 and 19 are surest, then 13 and 18
            return found

        monkeypatch.setattr(verips.Learner, "_logits", logits)
        one = learner({"most": 5}, first())
        assert sorted(next(stages(one, draws(10)))) == [13, 14, 19, 24, 29], "of equal ones the lower position"
        drawn = draws(15, 3)
        assert sorted(next(stages(learner({"most": 5}, one, 3), drawn))) == [18, 19, 23, 24, 29], "two are free again"

    def test_a_later_round_is_stricter(self, tell: Callable[[Told], None]) -> None:
        tell(Told({20: 0}, sure=6.0))
        uncertainty = float(entropy(torch.tensor([[6.0, 0, 0, 0]])))
        options = {"threshold": uncertainty + 0.015, "decay": 0.01, "verifier": False, "keep": False}
        one, found = first(**options), []
        for number in (2, 3, 4):
            one = learner(options, one, number)
            one.training = TRAINING
            one.begin_stage(0, draws(10, number))
            assert int(one.state["round"]) == number
            found.append(table(one))
        assert found == [{20: 0}, {20: 0}, {}]

    @pytest.mark.parametrize("unlabeled", [0, 1])
    def test_a_pool_that_is_almost_bought(self, unlabeled: int) -> None:
        one = learner({"threshold": ANY}, first())
        epochs = list(train(one, draws(POOL - unlabeled), TRAINING))
        assert all(math.isfinite(value) for epoch in epochs for value in epoch.means.values())
        assert one.state["positions"].tolist() == ALL[POOL - unlabeled :].tolist()

    def test_trained_rounds_keep_to_the_rules(self) -> None:
        options, training = {"threshold": ANY, "decay": 0.0}, Training(epochs=12, batch_size=8, milestones=[])
        one = learner(options, None, 1)
        list(train(one, draws(9, 1), training))
        before, kept = dict[int, int](), 0
        for number, (labeled, unknown) in enumerate([(10, 0), (12, 1), (14, 2), (16, 3)], start=2):
            one = learner(options, one, number)
            list(train(one, draws(labeled, number, unknown), training))
            found, since = (
                table(one),
                dict(zip(*(one.state[name].tolist() for name in ("positions", "since")), strict=True)),
            )
            assert set(found) <= set(range(labeled, POOL - unknown))
            old = {position for position in found if since[position] < number}
            assert all(before[position] == found[position] for position in old)
            before, kept = found, kept + len(old)
        assert kept > 0


class TestTraining:
    def test_without_a_sure_prediction_it_is_plain(self) -> None:
        for options in ({"threshold": 0.0}, {"threshold": 0.0, "verifier": False}):
            one = learner(options, first(**options))
            plain = learner_of(PLAIN, DROPOUT, round_number=2)
            epochs, expected = (list(train(each, draws(), TRAINING)) for each in (one, plain))
            assert not table(one)
            assert same(state(one, ["model"]), state(plain))
            assert [epoch.means for epoch in epochs[-TRAINING.epochs :]] == [epoch.means for epoch in expected]

    def test_a_verifier_that_refuses_nothing_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        monkeypatch.setattr(verips.Learner, "_verify", lambda *_: None)
        for verifier in (True, False):
            previous = first(threshold=ANY, verifier=False)
            one = learner({"threshold": ANY, "verifier": verifier}, previous)
            list(train(one, draws(), TRAINING))
            assert len(table(one)) == POOL - 10
            found.append(state(one, ["model", "state"]))
        assert same(*found)

    def test_each_stage_trains_its_own_network(self) -> None:
        previous = first(threshold=ANY)
        before = state(previous)
        one = learner({"threshold": ANY}, previous)
        seen = [state(one)]
        epochs = train(one, draws(), TRAINING)
        seen += [state(one) for epoch in epochs if epoch.number % TRAINING.epochs == 0]
        changed = [
            {name.partition("/")[0] for name, tensor in later.items() if not name.startswith("state/")
             and not torch.equal(tensor, earlier[name])}
            for earlier, later in pairwise(seen)
        ]  # fmt: skip
        assert changed == [{"verifier"}, {"model"}], "batch norms included"
        assert same(state(previous), before)

    def test_the_verifier_sees_no_pseudo_label(self) -> None:
        """It trains as the model of a plain recipe would with its first weights and in its order."""
        found = []
        for threshold in (0.0, ANY):
            one = learner({"threshold": threshold}, first(threshold=threshold))
            list(train(one, draws(), TRAINING))
            found.append(state(one, ["verifier"]))
        assert same(*found)

    @pytest.mark.parametrize(("clock", "steps"), [("all", [8, 8, 7, 7]), ("labeled", [16, 4])])
    def test_an_epoch_by_the_clock(self, clock: str, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """10 labelled and 20 pseudo-labelled examples in mini-batches of 8."""
        sizes, known, classes, pool = list[int](), list[int](), list[Tensor](), list[int]()
        real_step, real_pool = verips.Learner._step, Draws.pool

        def step(self: Any, name: str, inputs: Tensor, labels: Tensor, pseudo: int, rate: float) -> Any:
            if name == "model":
                sizes.append(len(inputs))
                known.append(len(inputs) - pseudo)
                classes.append(labels)
            return real_step(self, name, inputs, labels, pseudo, rate)

        def of_pool(self: Draws, positions: npt.NDArray[np.int64], augmented: bool = False) -> Tensor:
            if augmented:
                pool.extend(positions.tolist())
            return real_pool(self, positions, augmented)

        previous = first(threshold=ANY, verifier=False)
        monkeypatch.setattr(verips.Learner, "_step", step)
        monkeypatch.setattr(Draws, "pool", of_pool)
        one = learner({"threshold": ANY, "verifier": False, "clock": clock}, previous)
        list(train(one, draws(), Training(epochs=2, batch_size=8, milestones=[], learning_rate=0.01)))
        assert sizes == steps * 2
        assert sum(known) == 2 * 10
        given = table(one)
        labels = [label for batch, count in zip(classes, known, strict=True) for label in batch[count:].tolist()]
        assert labels == [given[position] for position in pool], "each with its own pseudo-label"
        own = [label for batch, count in zip(classes, known, strict=True) for label in batch[:count].tolist()]
        assert sorted(own[:10]) == sorted(own[10:]) == sorted(IMAGES.labels[:10].tolist())
        if clock == "all":
            assert sorted(pool[:20]) == sorted(pool[20:]) == list(range(10, POOL))
            assert pool[:20] != pool[20:], "in a new order"
            assert known[:4] != known[4:], "mixed"
        else:
            assert len(set(pool[:10])) == len(set(pool[10:])) == 10

    def test_no_number_of_pseudo_labels_leaves_a_mini_batch_of_one(self) -> None:
        """The last maps of resnet18 have one pixel here, so its batch norm cannot train on a single image."""
        backbone = BackboneRow.model_validate({"name": "resnet18", "width": 4})
        one, previous = (learner_of(row(threshold=ANY, verifier=False), backbone) for _ in range(2))
        previous.state = {"round": torch.tensor(1)} | {
            name: torch.full((POOL,), value) for name, value in (("pseudo_labels", verips.NONE), ("since", 0))
        }
        previous.state["positions"] = torch.arange(POOL)
        one.previous = previous
        training = Training(epochs=1, batch_size=POOL - 1, milestones=[], learning_rate=0.01)
        (epoch,) = train(one, draws(), training)
        assert isinstance(one, verips.Learner)
        assert len(table(one)) == 20
        assert all(math.isfinite(value) for value in epoch.means.values())

    @pytest.mark.parametrize("options", [{}, {"clock": "labeled", "most": 6}])
    def test_it_resumes_after_any_epoch(self, options: dict[str, Any], tmp_path: Path) -> None:
        previous, options = first(threshold=ANY, **options), {"threshold": ANY, **options}

        def epochs_of(one: verips.Learner, progress: Progress | None = None) -> Iterator[Epoch]:
            begun = progress.attach if progress else lambda state: None
            epochs = train(one, draws(), TRAINING, begin=begun)
            return progress.keep(epochs) if progress else epochs

        undisturbed = learner(options, previous)
        records = list(epochs_of(undisturbed))
        assert len(records) == 2 * TRAINING.epochs
        refused = (POOL - 10 if "most" not in options else 6) - len(table(undisturbed))
        assert refused > 0, "the verifier has something to refuse"
        for epoch in range(1, len(records) + 1):
            path = tmp_path / f"{epoch}{PROGRESS}"
            list(islice(epochs_of(learner(options, previous), Progress(path, "same", seconds=0)), epoch + 1))
            resumed = learner(options, previous)
            assert list(epochs_of(resumed, Progress(path, "same", seconds=0))) == records[epoch:]
            assert same(state(undisturbed), state(resumed))

    def test_it_learns_what_the_pseudo_labels_say(self) -> None:
        """With its previous model's labels for the whole pool, the task model comes to agree with them."""
        previous = first(threshold=ANY, verifier=False)
        one = learner({"threshold": ANY, "verifier": False}, previous)
        list(train(one, draws(), Training(epochs=40, batch_size=8, learning_rate=0.05, milestones=[])))
        given = table(one)
        one.model.eval()
        found = one._logits(one.model, draws(), np.array(list(given))).argmax(dim=1).tolist()
        assert np.mean([a == b for a, b in zip(found, given.values(), strict=True)]) > 0.6


@pytest.mark.parametrize("init", ["warm", "fresh"])
def test_rounds_by_hand(init: str, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
    """The table comes from the checkpoint of the round before, whatever the networks start from."""
    by_hand.first_round(lplgrad, tmp_path)
    settings = TRAIN[:-1] + f", recipe: {{trains: verips, threshold: 2.0, init: {init}}}}}"
    assert by_hand.train(lplgrad, tmp_path, settings)[0] == 0
    status, said = by_hand.train(
        lplgrad, tmp_path, settings, number=2, output="round2", labeled=of_round(2, tmp_path),
        checkpoint=tmp_path / "round1" / "checkpoint.safetensors",
    )  # fmt: skip
    assert status == 0, said
    assert "new ones with an entropy below 2" in said
    assert "epoch 4/4" in said
    one, two = (load(tmp_path / f"round{number}" / "checkpoint.safetensors").learner.state for number in (1, 2))
    assert (int(one["round"]), int(two["round"])) == (1, 2)
    assert len(two["positions"]) == 60 - 6
    assert one["pseudo_labels"].max() == verips.NONE
    assert set(two["since"].tolist()) <= {0, 2}
