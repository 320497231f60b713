"""TypiClust (Hacohen et al. 2022): the most typical candidate of each cluster that has the fewest labels.

Candidates and labelled examples are clustered together by k-means on the unit sphere, with as many clusters as there
will be labels. The clusters take turns, those with the fewest labels first, and of these the largest first. A turn
picks the candidate whose mean distance to its nearest neighbours in the cluster is smallest. Neighbours are candidates
of the cluster that are not picked yet.

The official code departs from the paper: it takes the mean of squared distances. This follows the paper. As the code
does, clusters of few members are set aside, and the number of clusters and of neighbours is limited. The code crashes
if a cluster has no candidate left. Here its turns are over, and clusters that were set aside come last.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._points import BLOCK, NEEDS, clusters_of, points_of, squared_distances
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import Count, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

TIE = 1e-8  # the unit to which mean distances are rounded, because errors of rounding may be almost as large


class Options(Settings):
    """How examples are clustered and compared. The defaults are those of the official code.

    Attributes:
        neighbors: the number of nearest neighbours whose mean distance counts; at most half of a cluster's candidates.
        max_clusters: the largest number of clusters.
        smallest: clusters with at most so many members are left for last.
    """

    neighbors: Count = 20
    max_clusters: Count = 500
    smallest: Annotated[int, Field(ge=0)] = 5


class _Cluster:
    """The candidates of a cluster that are not picked yet.

    Args:
        points: all candidates, float64, shape (S, D).
        members: positions of the cluster's candidates, int64, shape (N,).
        neighbors: how many nearest neighbours count, at most.
    """

    def __init__(self, points: Tensor, members: Tensor, neighbors: int) -> None:
        self.points, self.members, self.neighbors = points, members, neighbors
        # One place more than there are members, which is empty: the neighbour of members that have no further one.
        self.left = torch.ones(len(members) + 1, dtype=torch.bool, device=members.device)
        self.left[-1] = False
        # More neighbours than count, so that a pick rarely makes it necessary to search again.
        shape = len(members), min(2 * neighbors, len(members) - 1)
        self.nearest = torch.full(shape, len(members), device=members.device)
        self.distances = torch.zeros(shape, dtype=points.dtype, device=points.device)
        self.size = len(members)

    def pick(self) -> int:
        """Remove the most typical candidate and return its position; of equal ones the first."""
        picked = int(self._mean_distances().argmin())
        self.left[picked] = False
        self.size -= 1
        return int(self.members[picked])

    def _mean_distances(self) -> Tensor:
        """Return the mean distance to the nearest neighbours that are left, in units of ``TIE``, float64, shape (N,).

        The values are whole numbers, so that distances that differ by rounding are equal. Those of picked members are
        infinite.
        """
        count, left = min(self.neighbors, self.size // 2), self.left[:-1]
        short = (left & (self.left[self.nearest].sum(dim=1) < count)).nonzero()[:, 0]
        for rows in torch.split(short, BLOCK):
            self._search(rows)
        there = self.left[self.nearest]
        counted = there & (there.cumsum(dim=1) <= count)
        means = self.distances.where(counted, torch.zeros_like(self.distances)).sum(dim=1) / max(count, 1)
        return (means / TIE).round().masked_fill(~left, float("inf"))

    def _search(self, rows: Tensor) -> None:
        """Find the nearest neighbours of some members among those that are left."""
        others = self.left.nonzero()[:, 0]
        squared = squared_distances(self.points[self.members[rows]], self.points[self.members[others]])
        squared[rows[:, None] == others] = float("inf")
        found = squared.topk(min(self.nearest.shape[1], len(others) - 1), largest=False)
        width = found.values.shape[1]
        self.nearest[rows] = len(self.members)
        self.nearest[rows, :width] = others[found.indices]
        self.distances[rows, :width] = found.values.sqrt()


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the most typical candidates of the clusters in turn."""
    given = points_of(candidates)
    order, points, labeled = given
    count = min(options.max_clusters, len(labeled) + candidates.query_size)
    picks: list[int] = []
    if candidates.query_size:
        clusters = clusters_of(candidates, given, count)
        members, labels = clusters[: len(points)], clusters[len(points) :].bincount(minlength=count).tolist()
        sizes = clusters.bincount(minlength=count).tolist()
        turns = [deque[_Cluster](), deque[_Cluster]()]
        for cluster in sorted(range(count), key=lambda cluster: (labels[cluster], cluster)):
            found = (members == cluster).nonzero()[:, 0]
            if len(found):
                turns[sizes[cluster] <= options.smallest].append(_Cluster(points, found, options.neighbors))
        for queue in turns:
            while queue and len(picks) < candidates.query_size:
                picks.append(queue[0].pick())
                if queue[0].size:
                    queue.append(queue[0])
                queue.popleft()
    return Choice(order[np.array(picks, dtype=np.int64)])


ACQUISITION = Acquisition(choose=choose, needs=lambda options: NEEDS, options=Options)
