"""Proxies of the gradient norm that need no backward pass: the part of the last layer, from logits and features.

The gradient of a loss with respect to the weights and the bias of the last layer is the outer product of its gradient
at the logits and the features, which have a further 1 for the bias. Its norm is therefore the product of two norms. The
proxies are such products for several losses, and single factors. They show how much of the ranking of ``gradient_norm``
the last layer explains.

``expected_gradient`` is the expected gradient length (EGL) of Settles and Craven (2008). ``predicted_class`` is the
length of the gradient embedding of BADGE (Ash et al. 2020), with the bias. ``error`` is EL2N (Paul et al. 2021) with
the predicted class for the label. ``variance`` is the uncertainty of a candidate in BAIT (Ash et al. 2021) with the
binary Fisher information of Huseljic et al. (2024), and with the bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.acquisition._residuals import binary_variance, residuals
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Number, Settings, refuse_changed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

Proxy = Literal[
    "entropy_gradient", "entropy_gradient_sum", "expected_gradient", "fisher", "predicted_class", "error",
    "feature_norm", "variance",
]  # fmt: skip


class Options(Settings):
    """Which proxy.

    The formulas have the probabilities ``p``, their entropy ``H`` in nats, the one-hot vectors ``e_y`` of the classes,
    the predicted class ``m``, the features ``h`` and, with a further 1, ``h1``.

    Attributes:
        proxy: a candidate's score:
            ``entropy_gradient`` is the gradient norm of the entropy, ``|p * (log p + H)| |h1|``;
            ``entropy_gradient_sum`` adds those of the weights and of the bias, ``|p * (log p + H)| (|h| + 1)``;
            ``expected_gradient`` is the expected gradient norm of the loss, ``sum_y p_y |p - e_y| |h1|``;
            ``fisher`` is the root of the expected square of that norm, ``sqrt(1 - |p|^2) |h1|``, which is that of the
            trace of the Fisher information;
            ``predicted_class`` is the gradient norm of the loss at the predicted class, ``|p - e_m| |h1|``;
            ``error`` is its first factor, ``|p - e_m|``;
            ``feature_norm`` is its second factor, ``|h1|``;
            ``variance`` is ``p_m (1 - p_m) h1^T A h1``. The inverse of ``A`` is the mean of ``p_m (1 - p_m) h1 h1^T``
            over the labelled examples, plus ``ridge`` on the diagonal.
        ridge: what ``variance`` adds to the diagonal. No other proxy has it.
    """

    proxy: Proxy = "entropy_gradient"
    ridge: Annotated[Number, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.proxy != "variance":
            refuse_changed(self, f"proxy: {self.proxy}", "ridge")
        return self


def needs(options: Options) -> dict[str, Any]:
    """Return what the proxy needs."""
    own = {"error": ["logits"], "feature_norm": ["features"]}.get(options.proxy, ["logits", "features"])
    return dict.fromkeys([*own, *(f"labeled:{need}" for need in own if options.proxy == "variance")])


def wants(options: Options) -> frozenset[str]:
    """Return what the recipe must offer: a linear head, unless the proxy is a single factor."""
    return frozenset() if options.proxy in ("error", "feature_norm") else frozenset({"linear_head"})


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return the proxy of each candidate, at least 0, float64, shape (S,)."""
    match options.proxy:
        case "feature_norm":
            return _length(candidates["features"])
        case "error":
            return _norm(residuals(candidates["logits"]))
        case "variance":
            return _variance(candidates, options.ridge)
        case "entropy_gradient_sum":
            return _slope_of_entropy(candidates["logits"]) * (_norm(candidates["features"]) + 1)
        case "entropy_gradient":
            slope = _slope_of_entropy(candidates["logits"])
        case "predicted_class":
            slope = _norm(residuals(candidates["logits"]))
        case "expected_gradient":
            probabilities, squares = _slopes_of_losses(candidates["logits"])
            slope = (probabilities * squares.sqrt()).sum(dim=1)
        case "fisher":
            probabilities, squares = _slopes_of_losses(candidates["logits"])
            slope = (probabilities * squares).sum(dim=1).sqrt()
    return slope * _length(candidates["features"])


def _norm(rows: Tensor) -> Tensor:
    """Return the L2 norm of each row, float64, shape (N,)."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def _length(features: Tensor) -> Tensor:
    """Return the norm of each example's features with a further 1, float64, shape (N,)."""
    return (_norm(features).square() + 1).sqrt()


def _slope_of_entropy(logits: Tensor) -> Tensor:
    """Return the norm of the entropy's gradient at the logits, in nats, float64, shape (S,).

    The gradient is ``-p (z - sum_y p_y z_y)``. With the highest logit shifted to 0, as in ``entropy``, it keeps its
    digits however certain the prediction is.
    """
    logits = logits.double()
    shifted = logits - logits.amax(dim=1, keepdim=True)
    probabilities = shifted.softmax(dim=1)
    return _norm(probabilities * (shifted - (probabilities * shifted).sum(dim=1, keepdim=True)))


def _slopes_of_losses(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each class, and the squared norm of the gradient of its loss at the logits.

    The squared norm is ``|p - e_y|^2 = 1 + |p|^2 - 2 p_y``. Digits cancel for the predicted class alone; there it is
    that of the residuals.

    Returns:
        Both float64, shape (S, C).
    """
    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    squares = 1 + probabilities.square().sum(dim=1, keepdim=True) - 2 * probabilities
    predicted = logits.argmax(dim=1, keepdim=True)
    return probabilities, squares.scatter(1, predicted, residuals(logits).square().sum(dim=1, keepdim=True))


def _variance(candidates: Candidates, ridge: float) -> Tensor:
    """Return the variance of each candidate, float64, shape (S,). Without labelled examples, ``A`` is 1 / ridge."""
    labeled = candidates["labeled:features"].double()
    labeled = torch.cat([labeled, torch.ones_like(labeled[:, :1])], dim=1)
    weighted = labeled * binary_variance(candidates["labeled:logits"]).unsqueeze(1)
    # A Cholesky factor need not exist if the ridge is small, because rounding leaves negative eigenvalues.
    values, vectors = torch.linalg.eigh(labeled.T @ weighted / max(len(labeled), 1))
    along = torch.addmm(vectors[-1], candidates["features"].double(), vectors[:-1])
    form: Tensor = along.square_() @ (values.clamp(min=0) + ridge).reciprocal()  # h1^T A h1
    return binary_variance(candidates["logits"]) * form


ACQUISITION = Acquisition(score, needs=needs, wants=wants, options=Options, alone=True)
