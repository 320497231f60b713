"""MaxHerding (Bae et al. 2024): the candidates that together cover the others best, by a Gaussian kernel.

An example is covered as well as it is similar to the nearest labelled example: exp(-d^2 / width^2), where d is the
distance on the unit sphere. Each pick is the candidate that raises the mean coverage of the candidates most. Labelled
examples are covered already, so a mean over them too would choose the same.

The official code keeps all similarities in memory, and limits the candidates to 35,000 for it. Here they are computed
in blocks, and gains only as far as they can be the largest, with the same picks.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._coverage import gaussian, herd
from lplgrad.acquisition._points import NEEDS, points_of
from lplgrad.study.validation import Number, Settings


class Options(Settings):
    """How similar examples are.

    Attributes:
        width: the distance on the unit sphere at which the similarity is 1/e. The default is the official code's.
    """

    width: Annotated[Number, Field(ge=1e-6, le=1e6)] = 1.0


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the candidates that cover the others best, each counted alike."""
    return herd(candidates, points_of(candidates), gaussian(options.width))


ACQUISITION = Acquisition(choose=choose, needs=lambda options: NEEDS, options=Options)
