"""What acquisition functions need: computed once for all candidates of a round, then for test examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.acquisition import Acquisition, Batches, Candidates, Slope, is_representation, scores_of, side_outputs
from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms
from lplgrad.machine.devices import lacks_memory, to_tensor
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.machine.randomness import Purpose, torch_seed
from lplgrad.recipes import Learner
from lplgrad.rounds import checkpoints
from lplgrad.rounds.evaluation import LOGITS, predict
from lplgrad.rounds.pool import Indices, draw_test_examples
from lplgrad.rounds.representation import representation_of
from lplgrad.rounds.round import Round, query_size
from lplgrad.rounds.side import train_side
from lplgrad.study.jobs import QueryJob


class Scorer:
    """The learner of a round on its device, and the acquisition function that chooses with it.

    Args:
        here: the round; the learner is in its checkpoint.
        function, options: the acquisition function.

    Raises:
        UserError: the checkpoint does not fit the data or the function.
    """

    def __init__(self, here: Round[QueryJob], function: Acquisition, options: Any) -> None:
        self.here, self.function, self.options = here, function, options
        self.needs = dict(function.needs(options))
        represented = any(map(is_representation, self.needs))
        self.given = representation_of(here.data, here.settings.features) if represented else None
        self.checkpoint = checkpoints.load(here.arguments.checkpoint)
        self.checkpoint.check_fits(here.shape, here.data.classes)
        self.checkpoint.check_offers(function.requires(options), here.settings.acquisition)
        self.learner = checkpoints.to_device(self.checkpoint.learner, here.device)
        self.at_once = here.view(self.checkpoint.about.normalization).batch_size(norms=True)
        self.side: Learner | None = None
        self.plain: dict[str, Any] = {}  # what is needed of the candidates themselves
        self.of_others: dict[str, Any] = {}  # what was measured of labelled examples and of the pool
        self.earlier_seconds = 0.0  # that another process computed, before it was killed

    def candidates(self, indices: Indices) -> Candidates:
        """Measure the candidates of the round, shape (S,), and the labelled examples as far as they are needed.

        If outputs of the acquisition function's own learner are needed, train it first.
        """
        here = self.here
        if side_outputs(self.needs):
            self.side, self.earlier_seconds = train_side(here, self.function, self.options, self.checkpoint)
        augmenting = here.stream(Purpose.QUERY_AUGMENTATION)

        def batches(split_indices: Indices, what: str, generator: np.random.Generator) -> Iterable[Tensor]:
            change = generator if here.settings.query_transform == "train" else None
            return here.batches("train", split_indices, self.checkpoint.about.normalization, what, change)

        # All passes over the same examples draw the same augmentation; others go on from the candidates' first pass.
        first = [augmenting]

        def of_candidates() -> Iterable[Tensor]:
            generator = first.pop() if first else here.stream(Purpose.QUERY_AUGMENTATION)
            return batches(indices, "candidates", generator)

        others = {"labeled": here.labeled.indices, "pool": np.arange(len(here.data.splits["train"].inputs))}
        self.plain = {need: argument for need, argument in self.needs.items() if need.partition(":")[0] not in others}
        measured = self._measure(self.plain, of_candidates, indices)
        if "labeled:labels" in self.needs:
            self.of_others["labeled:labels"] = to_tensor(here.labeled.labels, here.device)
        for name, positions in others.items():
            prefix = f"{name}:"
            needs = {need.removeprefix(prefix): self.needs[need] for need in self.needs if need.startswith(prefix)}
            needs.pop("labels", None)

            def of_others(positions: Indices = positions, name: str = name) -> Iterable[Tensor]:
                return batches(positions, name, deepcopy(augmenting))

            if needs:
                found = self._measure(needs, of_others, positions, logits=False)
                self.of_others.update({f"{prefix}{need}": value for need, value in found.items()})
        return self._candidates(indices, measured)

    def test_scores(self) -> tuple[Indices, npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Score test examples as if they were candidates, never augmented.

        Returns:
            Positions in the test set, scores, and cross-entropies in nats of the same logits in float64; each of shape
            (N,). A model that is not quite sound may give numbers that are not finite: the log counts them.
        """
        here = self.here
        test = here.data.splits["test"]
        positions = draw_test_examples(len(test.inputs), here.seed)
        normalization = self.checkpoint.about.normalization
        measured = self._measure(
            self.plain, lambda: here.batches("test", positions, normalization, "test examples"), None
        )
        scores = scores_of(self.function, self._candidates(positions, measured), self.options)
        labels = to_tensor(test.labels[positions], here.device)
        losses = F.cross_entropy(measured["logits"].double(), labels, reduction="none").cpu().numpy()
        broken = np.count_nonzero(~(np.isfinite(scores) & np.isfinite(losses)))
        if broken:  # no reason to end a query whose candidates all had sound scores
            say(f"{broken} of {len(positions)} test examples have a score or a loss that is not finite")
        return positions, scores, losses

    def _candidates(self, indices: Indices, measured: dict[str, Any]) -> Candidates:
        here = self.here
        size, classes = query_size(here), len(here.data.classes)
        return Candidates(indices, here.seed, here.number, size, {**self.of_others, **measured}, classes)

    def _measure(
        self, needs: dict[str, Any], batches: Batches, positions: Indices | None, logits: bool = True
    ) -> dict[str, Any]:
        """Measure what is needed of the examples in the batches.

        Args:
            needs: with their arguments.
            batches: starts a pass over the examples.
            positions: of the examples in the pool; None if they are not of the pool.
            logits: whether their logits are measured in any case.
        """
        wanted = {need: argument for need, argument in needs.items() if need != "representation"}
        own = "representation" in needs and self.given is None
        if own:
            wanted["features"] = None
        found: dict[str, Any] = {}
        if wanted or logits:
            found = measure(self.function, wanted, self.learner, self.side, batches, self.at_once, self.here.stream)
        if own:
            found["representation"] = found["features"]
        elif "representation" in needs:
            if self.given is None or positions is None:
                raise ValueError("only examples of the pool have a representation, so no other can be scored")
            found["representation"] = to_tensor(self.given[positions], self.here.device)
        return found


def measure(
    function: Acquisition,
    needs: Mapping[str, Any],
    learner: Learner,
    side: Learner | None,
    batches: Batches,
    at_once: int,
    stream: Callable[[Purpose | str], np.random.Generator],
) -> dict[str, Any]:
    """Compute what is needed over the same batches, and logits always. Without a need, read no batch.

    Args:
        function: the acquisition function.
        needs: some of its needs, with their arguments.
        learner, side: of the round, and the function's own, if it has one.
        batches: starts a pass over the batches.
        at_once: examples in a pass for gradient norms.
        stream: returns the random stream of a purpose.

    Raises:
        UserError: gradient norms need a fallback that is not enabled.
    """
    measured: dict[str, Any] = {}
    if "gradient_norms" in needs:
        try:
            norms = gradient_norms(learner, needs["gradient_norms"], batches(), at_once)
        except NotImplementedError as error:
            raise UserError(f"gradient norms: {error}; fallback: true in the strategy's row enables it") from None
        measured = {"gradient_norms": norms, "logits": norms.output}
    if "stochastic_logits" in needs:
        seed = torch_seed(stream("modules in stochastic passes"))
        measured["stochastic_logits"] = stochastic_logits(learner, batches, needs["stochastic_logits"].passes, seed)
    of_side = side_outputs(needs)
    if of_side and side is not None:
        found = predict(side, batches(), of_side)
        measured |= {f"side:{name}": value for name, value in found.items()}
    outputs = frozenset(name for name in needs if ":" not in name) - {"gradient_norms", "stochastic_logits"}
    if outputs - measured.keys() or "logits" not in measured:
        measured |= predict(learner, batches(), outputs | LOGITS)
    for need in [name for name in needs if name.startswith("own:")]:
        with torch.no_grad():
            own = function.measures[need.removeprefix("own:")]
            measured[need] = own(learner, batches, needs[need], stream(need))
    return measured


def predictions(candidates: Candidates) -> dict[str, Any]:
    """Return entropy, confidence and class of the predictions for the candidates, each of shape (S,)."""
    logits = candidates["logits"]
    return {
        "entropy": entropy(logits).cpu().numpy(),
        "confidence": logits.double().softmax(dim=1).amax(dim=1).cpu().numpy(),
        "predicted": logits.argmax(dim=1).cpu().numpy(),
    }


def stochastic_logits(learner: Learner, batches: Batches, passes: int, seed: int) -> Tensor:
    """Compute logits of several passes with dropout, float32, shape (N, T, C). All else is as in eval mode.

    PyTorch's own generators draw the dropout. They are seeded, and restored afterwards.
    """
    for network in learner.networks.values():
        network.train()  # which tells the dropout of a training from that of frozen parts
    layers = [one for one in learner.reported.modules() if isinstance(one, nn.modules.dropout._DropoutNd)]
    dropouts = [one for one in layers if one.training]
    for network in learner.networks.values():
        network.eval()
    device = next(learner.reported.parameters()).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for dropout in dropouts:
            dropout.train()
        try:
            found = [torch.cat([learner.reported(inputs) for inputs in batches()]) for _ in range(passes)]
        finally:
            for dropout in dropouts:
                dropout.eval()
    return torch.stack(found, dim=1)


def gradient_norms(learner: Learner, slope: Slope, batches: Iterable[Tensor], at_once: int) -> GradientNorms:
    """Compute gradient norms of the reported model over batches of inputs, ``at_once`` examples at a time.

    If memory runs out, as it may on a shared GPU, this number is halved from there on.

    Raises:
        NotImplementedError: the model has parameters that need a fallback, and ``slope`` allows none.
    """
    for network in learner.networks.values():
        network.eval()
    parts: list[GradientNorms] = []
    largest: int | None = None
    with PerSampleGradientNorms(learner.reported, fallback=slope.fallback) as norms_of:
        for examples in batches:
            size = min(at_once, largest or len(examples))
            start = 0
            while start < len(examples):
                try:
                    parts.append(norms_of(examples[start : start + size], slope.loss))
                    start += size
                except RuntimeError as error:
                    if size == 1 or not lacks_memory(error):
                        raise
                    largest = size = size // 2
    return GradientNorms.joined(parts)
