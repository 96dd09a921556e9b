"""LLaVA-Scissor: one token for each connected component of similar tokens, in each frame, then over time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.groups import by_frame

HALVINGS = 7
"""Of the interval from 0 to 1 in which the threshold is searched; the published ones have two decimals."""


def select(candidates: Candidates) -> Selected:
    """Semantic connected components in each segment (LLaVA-Scissor, arXiv 2506.21862).

    In each frame, tokens with a cosine above ``τ`` are joined, and each connected component becomes its mean. The
    means of all frames are joined in the same way, with the same ``τ``. Then each token of the segment goes into the
    most similar of these, which becomes the mean of itself and of all that come.

    The paper sets the number of tokens by ``τ``. So does this, as near as a search in steps of 1/128 comes: the
    smallest ``τ`` found that leaves the budget or more. For an exact total, joining over time then goes on, the most
    similar pair first, until as many components are left as the budget says. A component lies where its earliest token
    does. Components are exact, where the published code samples beyond some thousand tokens.
    """
    everyone = torch.arange(len(candidates.segments))
    features = candidates.features
    wide = features.to(torch.promote_types(features.dtype, torch.float32)).clone()
    target = torch.full_like(everyone, -1)
    for segment, count in candidates.budgets.items():
        if count:
            frames = by_frame(candidates, segment)
            members = torch.cat(frames)
            rows = members.to(wide.device)
            earliest, means = _components(wide[rows], [len(frame) for frame in frames], count)
            into = (F.normalize(wide[rows], dim=-1) @ F.normalize(means, dim=-1).T).argmax(1)
            sums = means.index_add(0, into, wide[rows])
            wide[rows[earliest]] = sums / (1 + torch.bincount(into, minlength=count))[:, None]
            kept = members[earliest.cpu()]
            target[members] = kept[into.cpu()]
            target[kept] = kept
    indices = (target == everyone).nonzero().squeeze(-1)
    return Selected(indices, target, wide[indices.to(wide.device)].to(features.dtype))


def _components(features: Tensor, sizes: list[int], count: int) -> tuple[Tensor, Tensor]:
    """The components that are left of ``(n, D)`` tokens, frame by frame: ``(count,)`` int64, the earliest token of
    each, and ``(count, D)``, their means."""
    parents, strengths, start = [], [], 0
    for size in sizes:
        parent, strength = _spanning_tree(features[start : start + size])
        parents.append(parent + start)
        strengths.append(strength)
        start += size
    parent, strength = torch.cat(parents), torch.cat(strengths)
    low, high, inside, found = 0.0, 1.0, torch.arange(len(features)), None
    for _ in range(HALVINGS):
        threshold = (low + high) / 2
        earliest = _earliest(parent, strength > threshold)
        over_time = None
        if int((earliest == torch.arange(len(earliest))).sum()) >= count:
            over_time = _spanning_tree(_means(features, earliest)[1])
        if over_time is None or int((over_time[1] <= threshold).sum()) < count:
            low = threshold
        else:
            high, inside, found = threshold, earliest, over_time
    kept, means = _means(features, inside)
    parent, strength = _spanning_tree(means) if found is None else found
    joins = torch.zeros(len(parent), dtype=torch.bool)
    joins[torch.argsort(strength, descending=True, stable=True)[: len(parent) - count]] = True
    groups, final = _means(means, _earliest(parent, joins))
    return kept[groups], final


def _spanning_tree(features: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum spanning tree of the cosines (Prim 1957). Without its edges up to some bound, the components of the
    graph of larger cosines are left.

    Args:
        features: ``(n, D)``, at least one row.

    Returns:
        ``(n,)`` int64, where each row hangs, the first on itself, and ``(n,)`` the cosines, ``-inf`` for the first; on
        the CPU.
    """
    unit = F.normalize(features, dim=-1)
    # Thousands of small steps, which NumPy takes faster.
    similarity = (unit @ unit.T).cpu().numpy()
    parent, strength = np.zeros(len(unit), dtype=np.int64), np.full(len(unit), -np.inf, dtype=similarity.dtype)
    best, outside = similarity[0].copy(), np.ones(len(unit), dtype=bool)
    last = 0
    for _ in range(len(unit) - 1):
        outside[last], best[last] = False, -np.inf
        last = int(best.argmax())
        strength[last] = best[last]
        closer = outside & (similarity[last] > best)
        closer[last] = False
        np.copyto(best, similarity[last], where=closer)
        np.putmask(parent, closer, last)
    return torch.from_numpy(parent), torch.from_numpy(strength)


def _earliest(parent: Tensor, joins: Tensor) -> Tensor:
    """``(n,)`` int64: the lowest index of each one's component, where those that join hang on their parent."""
    everyone = torch.arange(len(parent))
    root = torch.where(joins, parent, everyone)
    while not torch.equal(root, further := root[root]):
        root = further
    return everyone.scatter_reduce(0, root, everyone, "amin")[root]


def _means(features: Tensor, earliest: Tensor) -> tuple[Tensor, Tensor]:
    """``(k,)`` int64, ascending, the earliest of each component, and ``(k, D)``, their means."""
    kept, component, sizes = earliest.to(features.device).unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(kept), features.shape[1]).index_add_(0, component, features)
    return kept, sums / sizes[:, None]
