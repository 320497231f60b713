"""Norm of the entropy gradient: LPLgrad (eq. 7 to 9), and Ent-GradNorm (Wang et al. 2022) for a model trained alone.

Cost: one forward and one backward pass per candidate, and about a quarter more for the norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lplgrad.acquisition import Acquisition, Candidates, Slope
from lplgrad.acquisition.entropy import entropy
from lplgrad.study.validation import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from lplgrad.gradient_norms import GradientNorms


class Options(Settings):
    """Which gradient, and which norm of it.

    Attributes:
        scheme: ``entropy`` differentiates the entropy of the prediction, ``expected`` the expected loss under it,
            ``sum_k P_k CE(x, k)``. Wang et al. offer both, and let the gradient flow through P too. But the expected
            loss under the prediction *is* its entropy, so both schemes give the same scores.
        norm: ``global`` is one Frobenius norm over all parameters (eq. 8); ``sum`` adds the L2 norms of the parameter
            tensors, as the authors' code does.
        fallback: whether to differentiate parameters of unsupported kinds (see docs/gradient-norms.md) too, for one
            example after another. Otherwise a network that has some is refused.
    """

    scheme: Literal["entropy", "expected"] = "entropy"
    norm: Literal["global", "sum"] = "global"
    fallback: bool = False


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return the norm of each candidate's gradient with respect to all parameters of the main model."""
    norms: GradientNorms = candidates["gradient_norms"]
    return norms.total if options.norm == "global" else norms.sum


# For either scheme, the gradient is that of the entropy.
ACQUISITION = Acquisition(
    score, needs=lambda options: {"gradient_norms": Slope(entropy, options.fallback)}, options=Options, alone=True
)
