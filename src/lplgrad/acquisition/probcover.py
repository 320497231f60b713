"""ProbCover (Yehuda et al. 2022): the candidates whose balls cover most candidates that no ball covers yet.

The balls are on the unit sphere and have one radius. A point is covered if a ball around a labelled example or a pick
contains it. If the radius is not given, it is as in the paper the largest at which enough balls are pure: all
examples in such a ball are in one of C clusters of k-means. Where the paper tries some radii, this takes the largest of
all.

The official code never picks the last examples of the pool (up to 499) and, when all are covered, picks the first
labelled example again and again. Here the rest is then drawn at random.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._coverage import ball, herd
from lplgrad.acquisition._points import NEEDS, clusters_of, pairs, points_of
from lplgrad.machine.log import say
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Count, Number, Settings, refuse_changed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


class Options(Settings):
    """The radius of the balls, or how it is found.

    Attributes:
        radius: of the balls on the unit sphere, whose points are at most 2 apart; None for the largest at which balls
            are pure.
        purity: the fraction of the balls that must be pure.
        clusters: how many clusters say whether a ball is pure; None for the number of classes.
    """

    radius: Annotated[Number, Field(gt=0, le=2)] | None = None
    purity: Annotated[Number, Field(gt=0, le=1)] = 0.95
    clusters: Count | None = None

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.radius is not None:
            refuse_changed(self, "a radius", "purity", "clusters")
        return self


def pure_radius(points: Tensor, clusters: Tensor, purity: float) -> float:
    """Return the largest radius at which enough balls around the points are pure.

    A ball does not contain points that are as far as its radius. So a ball is pure up to the distance of the nearest
    point of another cluster.

    Args:
        points: float64, shape (N, D).
        clusters: of the points, shape (N,).
        purity: the fraction of the balls.
    """
    nearest = torch.full_like(points[:, 0], float("inf"))
    for rows, columns, squared in pairs(points):
        squared.masked_fill_(clusters[rows, None] == clusters[columns], float("inf"))
        nearest[rows] = nearest[rows].minimum(squared.amin(dim=1))
        nearest[columns] = nearest[columns].minimum(squared.amin(dim=0))
    pure = math.ceil(purity * len(points) - 1e-9)  # so many balls, at least
    return float(nearest.sort(descending=True).values[pure - 1].sqrt())


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the candidates that cover most; when all are covered, draw.

    Raises:
        ValueError: the number of classes is needed and not known.
    """
    given, radius = points_of(candidates), options.radius
    if radius is None:
        count = options.clusters or candidates.classes
        if count is None:
            raise ValueError("the number of classes is not known: set clusters or radius")
        clusters = clusters_of(candidates, given, count)
        radius = pure_radius(torch.cat([given.points, given.labeled]), clusters, options.purity)
        say(f"the radius is {radius:.4g}: {options.purity:.0%} of the balls are in one of {count} clusters")
    return herd(candidates, given, ball(radius))


ACQUISITION = Acquisition(choose=choose, needs=lambda options: NEEDS, options=Options)
