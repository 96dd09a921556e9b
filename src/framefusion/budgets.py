"""How many tokens each segment keeps. Pure numbers, no model.

Every rule hits the requested total exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def total_kept(share: float, tokens: int) -> int:
    """Tokens that a video of ``tokens`` visual tokens keeps: ``max(1, floor(share * tokens + 1/2))``, and no
    more than it has."""
    return min(tokens, max(1, math.floor(share * tokens + 0.5))) if tokens else 0


def apportion(weights: Sequence[float], total: int, capacities: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights`` by largest remainder.

    No segment gets more than its capacity; every segment with a capacity gets at least one token when the total
    allows that. Within these bounds the shares are proportional; remainders go to the largest fractional part,
    ties to the lower index.

    Args:
        weights: one non-negative, finite number per segment.
        total: tokens to hand out.
        capacities: tokens that each segment has.

    Returns:
        One count per segment; they sum to ``min(total, sum(capacities))``.

    Raises:
        ValueError: lengths differ, a weight is negative or not finite, or a count is negative.
    """
    if len(weights) != len(capacities):
        raise ValueError(f"weights has {len(weights)} entries but capacities has {len(capacities)}.")
    for i, w in enumerate(weights):
        if not math.isfinite(w) or w < 0:
            raise ValueError(f"weights[{i}] is {w}; weights must be finite and not negative.")
    if total < 0 or min(capacities, default=0) < 0:
        raise ValueError(f"total and capacities must not be negative, got {total} and {list(capacities)}.")
    total = min(total, sum(capacities))
    floor = 1 if total >= sum(c > 0 for c in capacities) else 0
    lowest = [min(floor, c) for c in capacities]
    quotas = _bounded_shares([float(w) for w in weights], total, lowest, capacities)
    counts = [min(max(math.floor(q + 1e-9), lo), c) for q, lo, c in zip(quotas, lowest, capacities, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: (-(round(quotas[i] - counts[i], 9)), i))
    left = total - sum(counts)
    while left > 0:
        for i in order:
            if left > 0 and counts[i] < capacities[i]:
                counts[i] += 1
                left -= 1
    return counts


def _bounded_shares(weights: list[float], total: int, lowest: Sequence[int], highest: Sequence[int]) -> list[float]:
    """Real numbers in ``[lowest, highest]`` that sum to ``total``, proportional to ``weights`` where no bound
    holds them: the scale whose clamped shares sum to the total."""
    if sum(weights) <= 0:
        weights = [float(c) for c in highest]
    # A weight of zero still has to give way once all others are full.
    smallest = min((w for w in weights if w > 0), default=1.0)
    weights = [w if w > 0 else smallest * 1e-6 for w in weights]

    def shares(scale: float) -> list[float]:
        return [min(max(scale * w, lo), hi) for w, lo, hi in zip(weights, lowest, highest, strict=True)]

    low, high = 0.0, 1.0
    while sum(shares(high)) < total:
        high *= 2.0
        if high > 1e300:
            break
    for _ in range(200):
        middle = (low + high) / 2
        if sum(shares(middle)) < total:
            low = middle
        else:
            high = middle
    return shares(high)


def uniform(lengths: Sequence[int], total: int) -> list[int]:
    """The same keep ratio in every segment.

    Args:
        lengths: tokens present in each segment.
        total: tokens to keep in all.
    """
    return apportion([float(n) for n in lengths], total, lengths)


def marginal_value(means: Tensor, lengths: Sequence[int], total: int) -> list[int]:
    """More tokens for segments that continue the past and announce something new (MMG-Vid, arXiv 2508.21044).

    With ``g_i`` the mean feature of segment ``i``:
    ``MV_i = 0.5 * cos(g_i, mean of earlier) + 0.5 * (1 - cos(g_i, mean of later))`` (a missing side counts as
    cosine 0), z-scored over the segments; the keep ratio of segment ``i`` is
    ``clamp(keep + 0.1 * MV_i, 0.05, 0.95)``, rescaled so that the total is exact.

    Args:
        means: ``(S, D)``, mean feature of each segment, in temporal order.
        lengths: tokens present in each segment.
        total: tokens to keep in all.
    """
    if len(means) != len(lengths):
        raise ValueError(f"means has {len(means)} rows but lengths has {len(lengths)} entries.")
    present = sum(lengths)
    if not present:
        return [0] * len(lengths)
    ratios = (total / present + 0.1 * marginal_values(means)).clamp(0.05, 0.95).tolist()
    return apportion([r * n for r, n in zip(ratios, lengths, strict=True)], total, lengths)


def marginal_values(means: Tensor) -> Tensor:
    """The z-scored marginal values of :func:`marginal_value`: ``(S, D)`` to ``(S,)`` float32."""
    g = means.float()
    values = torch.zeros(len(g), device=g.device)
    for i in range(len(g)):
        past = F.cosine_similarity(g[i], g[:i].mean(0), dim=0) if i > 0 else g.new_zeros(())
        future = F.cosine_similarity(g[i], g[i + 1 :].mean(0), dim=0) if i + 1 < len(g) else g.new_zeros(())
        values[i] = 0.5 * past + 0.5 * (1 - future)
    if len(g) < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) / (values.std() + 1e-8)
