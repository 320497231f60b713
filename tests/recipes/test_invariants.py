"""What must hold between recipes, and between a recipe and a plain loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lplgrad.datasets import digits
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.machine.randomness import stream
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.study.settings import BackboneRow, Normalization, RecipeRow, Training
from tests.learners import PLAIN, draws_of, learner_of, state

BACKBONE = BackboneRow.model_validate({"name": "small_resnet", "width": 4, "dropout": 0.3})


def test_plain_is_the_loop_that_a_textbook_has() -> None:
    """With the same first weights and the same mini-batches: SGD with momentum, whose rate falls at a milestone."""
    training = Training(epochs=4, batch_size=8, learning_rate=0.05, milestones=[2])
    learner, model = (learner_of(PLAIN, BACKBONE) for _ in range(2))
    list(train(learner, draws_of(), training))
    network, draws = model.model.train(), draws_of()
    velocities = [torch.zeros_like(one) for one in network.parameters()]
    for epoch in range(4):
        rate = 0.05 if epoch < 2 else 0.005
        draws.begin_epoch(epoch)
        torch.manual_seed(int(stream(1, f"modules in epoch {epoch}").integers(2**63)))
        for _ in range(3):
            inputs, labels = draws.labeled()
            gradients = torch.autograd.grad(F.cross_entropy(network(inputs), labels), list(network.parameters()))
            with torch.no_grad():
                for one, velocity, gradient in zip(network.parameters(), velocities, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient + 5e-4 * one)
                    one.sub_(rate * velocity)
    expected = state(model)
    for name, tensor in state(learner).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_an_ensemble_beats_its_members() -> None:
    """On digits, its accuracy is above the mean of theirs. Its loss always is below the mean of theirs (Jensen)."""
    prepared = digits.prepare(digits.Options(), Path())
    examples, test = prepared.train, prepared.test
    assert isinstance(examples, Examples)
    assert isinstance(test, Examples)
    row = RecipeRow.model_validate({"trains": "ensemble", "members": 3})
    learner = learner_of(row, BackboneRow.model_validate({"name": "small_resnet", "width": 4}), classes=10)
    some = Normalization(mean=[0.3], std=[0.38])
    labeled = 100
    draws = draws_of(examples, labeled, 25, {"crop_padding": 1}, some, stream_of=partial(stream, 1, round_number=1))
    list(train(learner, draws, Training(epochs=8, batch_size=25, learning_rate=0.05, milestones=[6])))
    inputs = draws.view.plain(torch.from_numpy(test.inputs))
    labels = torch.from_numpy(test.labels)
    found = predict(learner, [inputs], frozenset({"logits", "member_logits"}))
    together = (found["logits"].argmax(dim=1) == labels).double().mean()
    alone = (found["member_logits"].argmax(dim=2) == labels[:, None]).double().mean()
    assert 0.3 < alone < together
    losses = F.cross_entropy(found["member_logits"].flatten(0, 1), labels.repeat_interleave(3))
    assert F.cross_entropy(found["logits"], labels) < losses
    assert np.isfinite(float(losses))
