"""Clusters of tokens around density peaks: DPC-KNN (Rodriguez & Laio 2014; Du, Ding & Jia 2016), which FastVID and
HoliTom share. Pure tensors, never a square matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 22
"""Distances that are held at once."""


def density_scores(features: Tensor, neighbours: int) -> Tensor:
    """``ρ·δ`` of each row.

    ``ρ = exp(-mean of the squared distances to the nearest rows)``, itself among them, as the published codes count;
    ``δ`` is the distance to the nearest denser row, and for the densest the largest distance of all. Distances are
    divided by ``√D``. Of equally dense rows the earlier one counts as denser.

    Args:
        features: ``(n, D)``, any float dtype; computed in float32 (float64 stays float64).
        neighbours: how many nearest rows count, at most n.

    Returns:
        ``(n,)`` scores, at least 0. Time O(n²·D), memory O(n·D).
    """
    x = _centred(features)
    neighbours = max(1, min(neighbours, len(x)))
    density = x.new_zeros(len(x))
    farthest = x.new_zeros(())
    for rows, squared in _squared_distances(x):
        density[rows] = torch.exp(-squared.topk(neighbours, dim=1, largest=False).values.mean(1))
        farthest = torch.maximum(farthest, squared.amax())
    rank = torch.empty(len(x), dtype=torch.long, device=x.device)
    rank[torch.argsort(density, descending=True, stable=True)] = torch.arange(len(x), device=x.device)
    gap = torch.zeros_like(density)
    for rows, squared in _squared_distances(x):
        denser = rank[None] < rank[rows, None]
        gap[rows] = squared.masked_fill(~denser, torch.inf).amin(1)
    return density * torch.where(gap.isinf(), farthest, gap).sqrt()


def peaks(features: Tensor, count: int, neighbours: int) -> Tensor:
    """The ``count`` rows of the highest :func:`density_scores`, ties to the lower index: ``(count,)`` int64."""
    return torch.argsort(density_scores(features, neighbours), descending=True, stable=True)[:count]


def nearest(features: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each row by Euclidean distance, ties to the first.

    Args:
        features: ``(n, D)``, any float dtype.
        centres: ``(k,)`` int64 rows of it, at least one.

    Returns:
        ``(n,)`` int64 positions in ``centres``.
    """
    x = _centred(features)
    return torch.cat([squared.argmin(1) for _, squared in _squared_distances(x, x[centres])])


def blend(features: Tensor, target: Tensor, indices: Tensor, own: float) -> Tensor:
    """What the kept tokens become: ``own`` times themselves plus ``1 - own`` times the mean of what they absorb.

    Args:
        features: ``(n, D)``, any float dtype; computed in float32 (float64 stays float64).
        target: ``(n,)`` int64: the kept token that each one goes into, itself for a kept one, -1 for nowhere.
        indices: ``(k,)`` int64: the kept tokens.
        own: weight in [0, 1] of a token that absorbs others; one that absorbs none keeps its features bit for bit.

    Returns:
        ``(k, D)`` in the dtype of ``features``.
    """
    target, indices = target.to(features.device), indices.to(features.device)
    moved = ((target >= 0) & (target != torch.arange(len(target), device=target.device))).nonzero().squeeze(-1)
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    absorbed = torch.zeros_like(wide).index_add_(0, target[moved], wide[moved])[indices]
    sizes = torch.bincount(target[moved], minlength=len(target))[indices, None]
    mixed = own * wide[indices] + (1 - own) * absorbed / sizes.clamp_min(1)
    return torch.where(sizes > 0, mixed.to(features.dtype), features[indices])


def _centred(features: Tensor) -> Tensor:
    """Rows around their mean, where differences lose the least, divided by ``√D``."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return (wide - wide.mean(0)) / wide.shape[1] ** 0.5


def _squared_distances(x: Tensor, others: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows, and their squared distances from all of ``others`` (from all rows, 0 from themselves)."""
    columns = x if others is None else others
    norms, own = (columns**2).sum(1), (x**2).sum(1)
    for rows in torch.arange(len(x), device=x.device).split(max(1, BLOCK // max(1, len(columns)))):
        squared = (own[rows, None] + norms[None] - 2 * x[rows] @ columns.T).clamp_min(0)
        if others is None:
            squared[rows - rows[0], rows] = 0
        yield rows, squared
