"""STTM: a quadtree in each frame, whose nodes merge with those above them in time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.groups import by_frame

ROOT = 1
"""Levels below the coarsest at which the quadtree begins; the coarsest has two rows or two columns."""

LESS_OVER_TIME = 0.25
"""How much smaller the threshold over time is than the one in space."""

HALVINGS = 7
"""Of the interval from 0 to 1 in which the threshold is searched; the published ones have two decimals."""


def select(candidates: Candidates) -> Selected:
    """Multi-granular spatio-temporal merging in each segment (STTM, arXiv 2507.07990).

    Each frame becomes a quadtree: four nodes make one, the mean of theirs, until a side has two; where a side is odd,
    its first row or column stays alone. From the second coarsest level on, a node stays whole if its cosine with each
    of its children is ``τ_s`` or more, and is split otherwise. Then nodes of neighbouring frames, of which one lies
    inside the other, merge where their cosine is ``τ_t`` or more; all that hang together become the mean of the nodes,
    in the earliest token.

    The paper sets the number of tokens by both thresholds. Here ``τ_t = τ_s - 0.25``, which is about what it has
    throughout, and ``τ_s`` is the smallest that leaves the budget or more, as near as a search in steps of 1/128 comes.
    For an exact total, merging over time then goes by the order of the cosines, the largest first, until as many are
    left as the budget says; where all that can has merged, what stands for the most tokens stays, ties to the earlier.
    """
    everyone = torch.arange(len(candidates.segments))
    features = candidates.features
    wide = features.to(torch.promote_types(features.dtype, torch.float32)).clone()
    target = torch.full_like(everyone, -1)
    for segment, count in candidates.budgets.items():
        if count:
            members = torch.cat(by_frame(candidates, segment))
            rows = members.to(wide.device)
            groups, means = _merge(candidates, members, wide[rows], count)
            sizes = groups.bincount()
            # Of groups, which are in the order of their earliest tokens.
            largest = torch.argsort(sizes, descending=True, stable=True)[:count]
            earliest = torch.full_like(sizes, len(members)).scatter_reduce(0, groups, torch.arange(len(groups)), "amin")
            wide[rows[earliest[largest].to(wide.device)]] = means[largest.to(wide.device)]
            into = torch.full_like(sizes, -1)
            into[largest] = members[earliest[largest]]
            target[members] = into[groups]
    indices = (target == everyone).nonzero().squeeze(-1)
    return Selected(indices, target, wide[indices.to(wide.device)].to(features.dtype))


def _merge(candidates: Candidates, members: Tensor, features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``(n,)`` int64 on the CPU, the group that each token ends in, and ``(g, D)``, the groups' means: ``count`` of
    them, or more where no more can merge."""
    frame = candidates.frames[members].unique(return_inverse=True)[1]
    patch = candidates.patches[members]
    levels = _pyramid(features, frame, patch, candidates.grid)
    before = _same_patch_of_frame_before(candidates.frames[members], patch)
    low, high = 0.0, 1.0
    nodes, means = torch.arange(len(members)), features
    for _ in range(HALVINGS):
        threshold = (low + high) / 2
        found, values = _quadtree(levels, threshold)
        left = 0
        if len(values) >= count:
            pairs, similarity = _pairs(found, values, before)
            joined = _join(len(values), pairs[similarity >= threshold - LESS_OVER_TIME], 0)
            left = len(joined.unique())
        if left >= count:
            high, nodes, means = threshold, found, values
        else:
            low = threshold
    pairs, similarity = _pairs(nodes, means, before)
    order = torch.argsort(similarity, descending=True, stable=True)
    joined = _join(len(means), pairs[order], count)
    groups = joined.unique(return_inverse=True)[1]
    sums = means.new_zeros(int(groups.max()) + 1, means.shape[1]).index_add_(0, groups.to(means.device), means)
    return groups[nodes], sums / groups.bincount().to(means.device)[:, None]


def _pyramid(
    features: Tensor, frame: Tensor, patch: Tensor, grid: tuple[int, int, int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The levels of the quadtrees from the tokens to the roots.

    Returns:
        for each level ``(n,)`` int64, the node of each token; ``(m, D)``, the nodes' features; and ``(m,)``, their
        smallest cosine with a child; all nodes that have a token.
    """
    _, height, width = grid
    shapes = [(height, width)]
    while min(shapes[-1]) > 2:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    row, column = patch // width, patch % width
    node = torch.arange(len(frame))
    levels = [(node, features, features.new_full((len(features),), torch.inf))]
    for (height, width), (rows, columns) in pairwise(shapes[: max(1, len(shapes) - ROOT)]):
        # An odd side leaves its first row or column alone.
        row, column = (row + height % 2) // 2, (column + width % 2) // 2
        place = (frame * rows + row) * columns + column
        child, values, _ = levels[-1]
        parent_of_token = place.unique(return_inverse=True)[1]
        parent = torch.empty(len(values), dtype=torch.long)
        parent[child] = parent_of_token
        parent = parent.to(values.device)
        total = int(parent.max()) + 1
        sums = values.new_zeros(total, values.shape[1]).index_add_(0, parent, values)
        means = sums / parent.bincount()[:, None]
        alike = F.cosine_similarity(values, means[parent], dim=-1)
        smallest = values.new_full((total,), torch.inf).scatter_reduce(0, parent, alike, "amin")
        levels.append((parent_of_token, means, smallest))
    return levels


def _quadtree(levels: list[tuple[Tensor, Tensor, Tensor]], threshold: float) -> tuple[Tensor, Tensor]:
    """The nodes that stay whole: ``(n,)`` int64, that of each token, in the order of their earliest tokens, and
    ``(m, D)``, their features."""
    node, values, _ = levels[0]
    tokens = len(node)
    name, offset = node.clone(), 0
    # From the tokens up: a coarser node that stays whole takes the place of all inside it.
    for of_token, means, smallest in levels:
        whole = (smallest >= threshold).cpu()[of_token]
        name = torch.where(whole, offset + of_token, name)
        offset += len(means)
    earliest = torch.full((offset,), tokens).scatter_reduce(0, name, torch.arange(tokens), "amin")[name]
    kept, nodes = earliest.unique(return_inverse=True)
    stacked = torch.cat([means for _, means, _ in levels])
    return nodes, stacked[name[kept].to(values.device)]


def _same_patch_of_frame_before(frame: Tensor, patch: Tensor) -> Tensor:
    """``(n,)`` int64: the token at the same place in the frame right before; -1 where there is none."""
    area, first = int(patch.max()) + 1, int(frame.min())
    place = torch.full((int(frame.max()) - first + 2, area), -1)
    place[frame - first + 1, patch] = torch.arange(len(frame))
    return place[frame - first, patch]


def _pairs(nodes: Tensor, features: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """``(p, 2)`` int64, nodes of neighbouring frames that have a place in common, and ``(p,)``, their cosines, on the
    CPU. Of two nodes of quadtrees that overlap, one lies inside the other."""
    has = before >= 0
    pairs = torch.stack([nodes[before[has]], nodes[has]], dim=1).unique(dim=0)
    a, b = features[pairs[:, 0].to(features.device)], features[pairs[:, 1].to(features.device)]
    return pairs, F.cosine_similarity(a, b, dim=-1).cpu()


def _join(total: int, pairs: Tensor, least: int) -> Tensor:
    """``(total,)`` int64: the first node of those that each one hangs together with, when the pairs join in order and
    no more once ``least`` groups are left."""
    root = list(range(total))

    def top(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    left = total
    for a, b in pairs.tolist():
        if left <= least:
            break
        a, b = top(a), top(b)
        if a != b:
            root[max(a, b)] = min(a, b)
            left -= 1
    return torch.tensor([top(node) for node in range(total)], dtype=torch.long)
