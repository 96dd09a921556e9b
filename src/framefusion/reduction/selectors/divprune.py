"""DivPrune: the most different tokens, by the smallest distance between any two of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.selectors.candidates import Candidates

BLOCK = 1 << 22
"""Similarities that are held at once."""


def select(candidates: Candidates) -> Tensor:
    """Greedy max–min diversity in each segment (DivPrune, arXiv 2503.02175, algorithm 1).

    With the distance ``1 - cos``, the first token is the one farthest from its nearest neighbour, each next one the
    farthest from those already chosen; ties go to the lower index. Time O(n²·D) for the first and O(k·n·D) for
    the others; the memory beyond a normalised copy of the features is O(n).
    """
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        if count:
            members = (candidates.segments == segment).nonzero().squeeze(-1)
            features = candidates.features[members.to(candidates.features.device)]
            chosen.append(members[max_min(features, count).cpu()])
    return torch.cat(chosen)


def max_min(features: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Greedy max–min diversity.

    Args:
        features: ``(n, D)``, any float dtype; computed in float32 (float64 stays float64).
        count: rows to choose, from 1 to n.
        weights: ``(n,)``, what the distance from a row to those chosen is multiplied by; None for 1.

    Returns:
        ``(count,)`` int64 rows in greedy order.
    """
    unit = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    weights = unit.new_ones(len(unit)) if weights is None else weights.to(unit)
    chosen = torch.zeros(count, dtype=torch.long, device=features.device)
    chosen[0] = (weights * (1 - _nearest_similarity(unit))).argmax()
    distance = unit.new_full((len(unit),), torch.inf)
    for t in range(1, count):
        last = chosen[t - 1 : t]
        distance = torch.minimum(distance, weights * (1 - unit @ unit[last][0]))
        distance[last] = -torch.inf
        chosen[t] = distance.argmax()
    return chosen


def _nearest_similarity(unit: Tensor) -> Tensor:
    """``(n,)`` cosine similarity of each row with the one most like it; 0 if there is no other."""
    if len(unit) == 1:
        return unit.new_zeros(1)
    nearest = []
    for rows in torch.arange(len(unit), device=unit.device).split(max(1, BLOCK // len(unit))):
        similarity = unit[rows] @ unit.T
        similarity[rows - rows[0], rows] = -torch.inf
        nearest.append(similarity.amax(dim=1))
    return torch.cat(nearest)
