"""FisherMask (Gul et al. 2024): BAIT on the few weights of the whole network that carry most information.

The mask has the weights of largest diagonal Fisher information, the mean over examples of sum_c p_c (d log p_c)^2, on
some random candidates. The greedy choice is then that of BAIT, with gradients at these weights in the place of those of
the last layer. The information of an example is the outer product of the gradient of log p_y for one class y that is
drawn from the prediction, which is right on average. With ``classes_per_example`` above 1 it is the sum over the most
likely classes, weighted by their probabilities, which for all classes is exact.

Departures from the official code: it leaves out the weights p_c in the information, so that certain predictions look
most informative. It also adds the whole last tensor to the mask, finds the places of the mask by their values, so that
equal ones count twice, and takes the first examples of the pool, augmented. Here p_c is there, the mask has the weights
of largest information alone, each once, and random candidates. As in the code, no candidate is added and then removed;
``oversample`` 2 does so, as BAIT does. Each chosen candidate has the weight b / (L + b), as in BAIT.

Cost: a forward and a backward pass for each candidate and labelled example, one example at a time, and one for each
class of 1,024 candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lplgrad.acquisition import Acquisition, Batches, Candidates, Choice, _fisher
from lplgrad.acquisition._fisher import Dense, choice_by, nothing
from lplgrad.acquisition._order import order_of, ordered
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Count

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lplgrad.recipes import Learner
else:
    torch = lazy("torch")

AT_ONCE = 2**27  # numbers of gradients that are computed at a time
MOST = 256  # gradients that are computed at a time, at most


class Options(_fisher.Options):
    """Which gradients, and how the greedy choice goes.

    Attributes:
        parameters: the number M of weights in the mask.
        classes_per_example: 1 draws a class of each example from its prediction. More are the most likely ones.
        mask_examples: candidates on which the mask is found, at most. Each costs a gradient per class.
        oversample: candidates that are added for each one that is kept. With 1 none is removed.
    """

    parameters: Count = 512
    classes_per_example: Count = 1
    mask_examples: Count = 1024
    oversample: Count = 1


class Mask:
    """The weights at which gradients are kept. The first measurement finds them, and later ones read them.

    One mask is the argument of the needs of candidates and of labelled examples. The query measures candidates first.

    Attributes:
        entries: by the name of a tensor of the reported model, places in it, int64, shape (M_t,); None until they are
            found.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.entries: dict[str, Tensor] | None = None


def gradients(learner: Learner, batches: Batches, mask: Mask, generator: np.random.Generator) -> Tensor:
    """Return the gradients of log p_y with respect to the weights of the mask, times sqrt(p_y) unless y is drawn.

    The networks stay as they are. Weights that do not train are in no mask.

    Returns:
        float32, shape (S, K, M), for K classes of each example.
    """
    model, options = learner.reported, mask.options
    if mask.entries is None:
        mask.entries = find_mask(model, batches, options, generator)
    else:
        (generator,) = generator.spawn(1)  # not the same draws as of the candidates
    size = min(options.classes_per_example, learner.spec.classes)
    device = next(model.parameters()).device
    found = [torch.empty(0, size, sum(map(len, mask.entries.values())), device=device)]
    for inputs in batches():
        p = model(inputs).double().softmax(dim=1)
        if options.classes_per_example == 1:
            classes, weights = _drawn(p, generator)[:, None], torch.ones_like(p[:, :1])
        else:
            order = p.argsort(dim=1, descending=True, stable=True)
            classes = order[:, :size]
            weights = p.gather(1, classes).sqrt()
        examples = torch.arange(len(inputs), device=inputs.device).repeat_interleave(size)
        parts = [
            torch.cat([gradient.flatten(1)[:, mask.entries[name]] for name, gradient in some.items()], dim=1)
            for some, _ in _per_example(model, inputs, examples, classes.flatten(), p.shape[1], list(mask.entries))
        ]
        each = torch.cat(parts).reshape(len(inputs), size, -1) * weights[:, :, None].to(parts[0].dtype)
        found.append(each)
    return torch.cat(found)


def find_mask(
    model: nn.Module, batches: Batches, options: Options, generator: np.random.Generator
) -> dict[str, Tensor]:
    """Find the weights of largest diagonal Fisher information on random examples; of equal ones the earlier.

    Returns:
        By the name of a tensor that trains, places in it, int64, shape (M_t,); no tensor without a place.
    """
    count = sum(len(inputs) for inputs in batches())
    chosen = np.zeros(count, dtype=bool)
    chosen[generator.choice(count, min(options.mask_examples, count), replace=False)] = True
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    total = {name: torch.zeros(one.numel(), dtype=torch.float64, device=one.device) for name, one in trained.items()}
    start = 0
    for batch in batches():
        inputs = batch[torch.from_numpy(chosen[start : start + len(batch)])]
        start += len(batch)
        if not len(inputs):
            continue
        p = model(inputs).double().softmax(dim=1)
        examples = torch.arange(len(inputs), device=inputs.device).repeat_interleave(p.shape[1])
        classes = torch.arange(p.shape[1], device=inputs.device).repeat(len(inputs))
        for some, pairs in _per_example(model, inputs, examples, classes, p.shape[1], list(trained)):
            weights = p.flatten()[pairs].float()
            for name, gradient in some.items():  # float64 among a few pairs would double the time
                total[name] += weights @ gradient.flatten(1).float().square()
    together = torch.cat(list(total.values()))
    best = together.argsort(descending=True, stable=True)[: options.parameters].sort().values
    entries, start = {}, 0
    for name, one in trained.items():
        places = best[(best >= start) & (best < start + one.numel())] - start
        if len(places):
            entries[name] = places
        start += one.numel()
    return entries


def _per_example(
    model: nn.Module, inputs: Tensor, examples: Tensor, classes: Tensor, count: int, names: Sequence[str]
) -> Iterator[tuple[dict[str, Tensor], slice]]:
    """Yield gradients of the log-probabilities of P pairs of an example and a class, some pairs at a time.

    Args:
        model: from inputs to logits.
        inputs: shape (B, ...).
        examples, classes: of the pairs, shape (P,) each.
        count: C, the number of classes.
        names: of the tensors whose gradients are wanted.

    Yields:
        By name, gradients of some pairs, shape (p, ...), and which pairs these are.
    """
    weights = {name: model.get_parameter(name).detach() for name in names}

    def log_probability(weights: dict[str, Tensor], one: Tensor, place: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, weights, (one[None],))
        # A gather would be shorter, but on a GPU the sum in its backward pass has no fixed order.
        return logits.log_softmax(dim=1)[0] @ place.to(logits)

    one_hot = torch.eye(count, device=classes.device)
    gradients_of = torch.func.vmap(torch.func.grad(log_probability), in_dims=(None, 0, 0))
    size = min(MOST, max(1, AT_ONCE // sum(one.numel() for one in weights.values())))
    for start in range(0, len(examples), size):
        some = slice(start, start + size)
        yield gradients_of(weights, inputs[examples[some]], one_hot[classes[some]]), some


def _drawn(p: Tensor, generator: np.random.Generator) -> Tensor:
    """Draw a class for each example from its prediction, int64, shape (B,). An example takes one number of the stream,
    and the sums are made on the CPU, so that neither batches nor devices matter."""
    sums = p.cpu().cumsum(dim=1)
    draws = torch.from_numpy(generator.random(len(p)))[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, draws, right=True)[:, 0].clamp(max=p.shape[1] - 1).to(p.device)


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the candidates; the score is by how much a candidate alone lowers the trace.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    if not candidates.query_size:
        return nothing(candidates)
    rows = Dense(ordered(candidates["own:gradients"], order_of(candidates)))
    labeled = Dense(candidates["labeled:own:gradients"])
    return choice_by(rows, labeled, candidates, options, options.oversample)


ACQUISITION = Acquisition(
    choose=choose,
    needs=lambda options: dict.fromkeys(("own:gradients", "labeled:own:gradients"), Mask(options)),
    options=Options,
    measures={"gradients": gradients},
)
