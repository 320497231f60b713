"""Candidates for functions over a representation, built by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lplgrad import acquisition
from lplgrad.acquisition import Candidates, Choice


def given(
    points: Tensor | Sequence[Sequence[float]],
    labeled: Tensor | Sequence[Sequence[float]] | None = None,
    picks: int = 1,
    seed: int = 1,
    classes: int | None = None,
    **measured: Any,
) -> Candidates:
    """Candidates with a representation; indices are positions."""
    points = torch.as_tensor(points, dtype=torch.float32)
    none = points.new_empty(0, points.shape[1])
    known = none if labeled is None else torch.as_tensor(labeled, dtype=torch.float32)
    measured |= {"representation": points, "labeled:representation": known}
    return Candidates(np.arange(len(points)), seed, 1, picks, measured, classes)


def chosen(name: str, candidates: Candidates, **options: Any) -> Choice:
    """What a function chooses."""
    function = acquisition.registry.load(name)
    return acquisition.choice_of(function, candidates, function.options(**options))


def moved(candidates: Candidates, order: np.ndarray[Any, Any]) -> Candidates:
    """The same candidates in another order."""
    index = torch.from_numpy(order)
    measured = {
        need: value if need.startswith("labeled:") else value[index] for need, value in candidates.measured.items()
    }
    return replace(candidates, indices=candidates.indices[order], measured=measured)


def holds_what_every_choice_must(name: str, **options: Any) -> None:
    """Check degenerate queries: sizes 0 and all, no labels, copies, zeros, one-hot predictions, another order, turned
    and scaled representations."""
    draw, classes = torch.Generator().manual_seed(0), 5
    points, labeled = torch.randn(60, 8, generator=draw), torch.randn(12, 8, generator=draw)
    points[30:40] = points[:10]  # copies
    points[40:43], points[43:46] = 0, labeled[:3]
    logits = 1e4 * (2 * torch.nn.functional.one_hot(torch.arange(60) % classes, classes).float() - 1)
    logits[:20] = torch.randn(20, classes, generator=draw)
    beside: dict[str, Any] = {
        "logits": logits,
        "side:temperature": torch.full((60,), 1.5),
        "labeled:labels": torch.full((12,), -1),
    }
    for known in (labeled, None, labeled[:1].expand(4, 8)):
        for size in (0, 25, 60):
            question = given(points, known, size, classes=classes, **beside)
            choice = chosen(name, question, **options)
            assert len(set(choice.picks.tolist())) == size
            assert np.array_equal(choice.picks, chosen(name, question, **options).picks)
            order = np.random.default_rng(size).permutation(60)
            assert np.array_equal(order[chosen(name, moved(question, order), **options).picks], choice.picks)
    for points in (torch.zeros(20, 3), torch.ones(20, 3)):
        few = {**beside, "logits": logits[:20], "side:temperature": torch.ones(20)}
        assert len(set(chosen(name, given(points, points[:2], 20, classes=classes, **few), **options).picks)) == 20
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    scale = torch.rand(72, 1, generator=draw) + 0.5
    distinct = torch.randn(60, 8, generator=draw)
    plain = chosen(name, given(distinct, labeled, 25, classes=classes, **beside), **options)
    turned = given(distinct @ turn * scale[:60], labeled @ turn * scale[60:], 25, classes=classes, **beside)
    assert np.array_equal(chosen(name, turned, **options).picks, plain.picks)
