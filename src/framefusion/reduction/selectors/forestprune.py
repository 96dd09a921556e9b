"""ForestPrune: similar tokens that lie close together form trees through time; roots stay before branches."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.selectors.candidates import Candidates
from framefusion.reduction.selectors.groups import by_frame

SIMILAR = 0.9
"""Cosine from which a token joins a tree, ``τ``."""

NEARBY = 0.2
"""Largest distance to a token of the tree along rows and columns, as a share of the frame: ``1 - τ_s``."""

INSIDE = 0.5
"""Share of each frame that the selection inside it leaves."""

PROPAGATED = 0.5
"""Cosine from which tokens of a frame are neighbours in it."""

TEMPERATURE = 0.03
"""Of the softmax over a token's neighbours."""

STEPS = 5
"""How often scores move on to the neighbours."""


def select(candidates: Candidates) -> Tensor:
    """Spatial-temporal forest modelling in each segment (ForestPrune, arXiv 2603.22911).

    First each frame keeps half of its tokens, those with the highest scores of G-Prune (arXiv 2501.02268): norms moved
    five times along the similarities of 0.5 and more, ``softmax(cos / 0.03)``, divided by the number of neighbours.
    Then the frames are read in order. A token joins the tree of the most similar earlier token among those with
    ``cos >= 0.9`` and, along rows and columns, at most a fifth of the frame away (ties: the nearest token, the older
    tree). It hangs on the token that the tree grew by last before this frame, one level deeper. A token that joins none
    is the root of a new tree. Where there are more roots than the budget, the most similar pair of roots merges again
    and again, the later into the earlier. The shallowest tokens stay, of those the earliest; ties go to the lower
    index.

    A budget above half, which the selection inside the frames could not fill, makes them keep as much as it needs.
    """
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        frames = by_frame(candidates, segment)
        if not count:
            continue
        kept = _inside_frames(candidates.features, frames, count)
        members = torch.cat(kept)
        rows = members.to(candidates.features.device)
        wide = candidates.features[rows].to(torch.promote_types(candidates.features.dtype, torch.float32))
        unit = F.normalize(wide, dim=-1)
        depth = _depths(unit, [len(frame) for frame in kept], _places(candidates, members))
        roots = (depth == 0).nonzero().squeeze(-1)
        if len(roots) > count:
            chosen.append(members[_distinct(unit[roots.to(unit.device)], roots, count)])
        else:
            # The tokens are in temporal order already.
            chosen.append(members[torch.argsort(depth, stable=True)[:count]])
    return torch.cat(chosen)


def _places(candidates: Candidates, members: Tensor) -> Tensor:
    """``(n, 2)`` rows and columns, each from 0 to 1."""
    _, height, width = candidates.grid
    patches = candidates.patches[members]
    places = torch.stack([patches // width, patches % width], dim=1).double()
    return places / torch.tensor([max(height - 1, 1), max(width - 1, 1)])


def _inside_frames(features: Tensor, frames: list[Tensor], count: int) -> list[Tensor]:
    """What the frames keep, ascending, ``count`` or more in all."""
    share = max(INSIDE, count / sum(map(len, frames)))
    kept = []
    for frame in frames:
        scores = _scores(features[frame.to(features.device)])
        # Rounded up, so that all together can fill the budget.
        own = min(len(frame), math.ceil(share * len(frame)))
        kept.append(frame[torch.argsort(scores, descending=True, stable=True)[:own].sort().values.cpu()])
    return kept


def _scores(features: Tensor) -> Tensor:
    """G-Prune's ``(n,)`` scores of the tokens of a frame."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    unit = F.normalize(wide, dim=-1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(1)
    neighbours = similarity >= PROPAGATED
    step = torch.softmax((similarity / TEMPERATURE).masked_fill(~neighbours, -torch.inf), dim=1)
    scores = wide.norm(dim=1)
    for _ in range(STEPS):
        scores = scores @ step
    return scores / neighbours.sum(1)


def _depths(unit: Tensor, sizes: list[int], places: Tensor) -> Tensor:
    """``(n,)`` int64 on the CPU: how far below its root each token hangs.

    Args:
        unit: ``(n, D)`` normalised tokens, frame by frame.
        sizes: tokens of each frame.
        places: ``(n, 2)``, see :func:`_places`.
    """
    depth, tree = torch.zeros(len(unit), dtype=torch.long), torch.zeros(len(unit), dtype=torch.long)
    deepest = torch.zeros(0, dtype=torch.long)
    """Depth of the token that each tree grew by last."""
    first = 0
    for size in sizes:
        own, earlier = slice(first, first + size), slice(0, first)
        joins, into = _best_tree(unit[own] @ unit[earlier].T, places[own], places[earlier], tree[earlier])
        depth[own][joins] = deepest[into[joins]] + 1
        deepest[into[joins].unique()] += 1
        tree[own] = into
        fresh = (~joins).nonzero().squeeze(-1)
        tree[first + fresh] = torch.arange(len(deepest), len(deepest) + len(fresh))
        deepest = torch.cat([deepest, torch.zeros_like(fresh)])
        first += size
    return depth


def _best_tree(similarity: Tensor, own: Tensor, earlier: Tensor, tree: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each token of a frame joins a tree, and which one."""
    if not similarity.shape[1]:
        nothing = torch.zeros(len(similarity), dtype=torch.long)
        return nothing.bool(), nothing
    similarity = similarity.cpu()
    # Chebyshev; a little more than the bound, which whole rows and columns may meet exactly.
    distance = torch.cdist(own, earlier, p=torch.inf)
    feasible = (similarity >= SIMILAR) & (distance <= NEARBY + 1e-9)
    best = similarity.masked_fill(~feasible, -torch.inf).amax(1, keepdim=True)
    feasible &= similarity == best
    distance = distance.masked_fill(~feasible, torch.inf)
    feasible &= distance == distance.amin(1, keepdim=True)
    oldest = torch.where(feasible, tree, len(tree)).amin(1)
    joins = oldest < len(tree)
    return joins, torch.where(joins, oldest, 0)


def _distinct(unit: Tensor, roots: Tensor, count: int) -> Tensor:
    """The ``count`` roots that are left when the most similar pair merges, the later into the earlier, again and again;
    of equally similar pairs the one with the earliest parent, then child."""
    total = len(unit)
    similarity = (unit @ unit.T).cpu()
    # The parents of a token are the roots before it.
    similarity = similarity.masked_fill(torch.ones(total, total, dtype=torch.bool).tril(), -torch.inf)
    best, parent = similarity.max(0)
    left = torch.ones(total, dtype=torch.bool)
    for _ in range(total - count):
        alike = (best == best.max()).nonzero().squeeze(-1)
        child = int(alike[parent[alike].argmin()])
        left[child] = False
        best[child], similarity[child] = -torch.inf, -torch.inf
        orphans = (left & (parent == child)).nonzero().squeeze(-1)
        if len(orphans):
            best[orphans], parent[orphans] = similarity[:, orphans].max(0)
    return roots[left]
