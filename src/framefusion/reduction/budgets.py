"""How many tokens each segment keeps. Pure numbers, no model.

Every rule hits the requested total exactly. A rule of the registry is ``rule(features, segments, total)`` for the ``(n,
D)`` features of an item's tokens and their ``(n,)`` int64 segments on the CPU; it returns ``{segment: tokens}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.checks import check_number, is_number
from framefusion.errors import ArgumentError


@dataclass(frozen=True)
class Novelty:
    """Only as much as is new: a segment takes no more tokens once all that remain are too much like those it keeps.

    The *novelty* of a token is the share ``d² / r²`` of its direction that the tokens kept in its segment do not span.

    Attributes:
        lower_bound: of novelty, in (0, 1].
        keep_lower_bound: share of the original tokens, in [0, 1], that stays in each stage even if nothing new is
            left. Default 0.
    """

    lower_bound: float
    keep_lower_bound: float = 0.0

    def __post_init__(self) -> None:
        check_number("Novelty.lower_bound", self.lower_bound, 0, 1, open_below=True)
        check_number("Novelty.keep_lower_bound", self.keep_lower_bound, 0, 1)


def novelty_of(field: str, given: Any) -> Novelty | None:
    """What a field's value means: a lower bound alone, or all that is said; None for exact totals."""
    if given is None or isinstance(given, Novelty):
        return given
    if not is_number(given):
        raise ArgumentError(f"{field} must be a lower bound, a Novelty or None, got {given!r}.")
    return Novelty(given)


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
        raise ArgumentError(f"weights has {len(weights)} entries but capacities has {len(capacities)}.")
    for i, w in enumerate(weights):
        if not math.isfinite(w) or w < 0:
            raise ArgumentError(f"weights[{i}] is {w}; weights must be finite and not negative.")
    if total < 0 or min(capacities, default=0) < 0:
        raise ArgumentError(f"total and capacities must not be negative, got {total} and {list(capacities)}.")
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
    w = np.asarray(weights if sum(weights) > 0 else highest, dtype=np.float64)
    if not w.any():
        return [0.0] * len(w)
    # A weight of zero still has to give way once all others are full.
    w = np.maximum(w / w.max(), 1e-12)

    def shares(scale: float) -> np.ndarray:
        return np.clip(scale * w, lowest, highest)

    low, high = 0.0, 2e12 * max(highest)
    for _ in range(120):
        middle = (low + high) / 2
        if shares(middle).sum() < total:
            low = middle
        else:
            high = middle
    return shares(high).tolist()


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
    cosine 0), z-scored over the segments with the population's standard deviation, as in the published code; the keep
    ratio of segment ``i`` is ``clamp(keep + 0.1 * MV_i, 0.05, 0.95)``, rescaled so that the total is exact.

    Args:
        means: ``(S, D)``, mean feature of each segment, in temporal order.
        lengths: tokens present in each segment.
        total: tokens to keep in all.
    """
    if len(means) != len(lengths):
        raise ArgumentError(f"means has {len(means)} rows but lengths has {len(lengths)} entries.")
    present = sum(lengths)
    if not present:
        return [0] * len(lengths)
    ratios = (total / present + 0.1 * marginal_values(means)).clamp(0.05, 0.95).tolist()
    return apportion([r * n for r, n in zip(ratios, lengths, strict=True)], total, lengths)


def marginal_values(means: Tensor) -> Tensor:
    """The z-scored marginal values of :func:`marginal_value`: ``(S, D)`` to ``(S,)`` float32."""
    g = means.double()
    if len(g) < 2:
        return torch.zeros(len(g), dtype=torch.float32, device=g.device)
    # The cosine with a mean is the cosine with its sum; the sum of nothing is 0, and so is its cosine.
    earlier = g.cumsum(0) - g
    later = g.flip(0).cumsum(0).flip(0) - g
    earlier[0], later[-1] = 0, 0
    values = 0.5 * F.cosine_similarity(g, earlier, dim=1) + 0.5 * (1 - F.cosine_similarity(g, later, dim=1))
    return ((values - values.mean()) / (values.std(unbiased=False) + 1e-8)).float()


def by_length(features: Tensor, segments: Tensor, total: int) -> dict[int, int]:
    """:func:`uniform` as a rule."""
    ids, lengths = segments.unique(return_counts=True)
    return dict(zip(ids.tolist(), uniform(lengths.tolist(), total), strict=True))


def by_marginal_value(features: Tensor, segments: Tensor, total: int) -> dict[int, int]:
    """:func:`marginal_value` of the segments' mean features as a rule."""
    ids, own, lengths = segments.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(ids), features.shape[1], dtype=torch.float32, device=features.device)
    sums.index_add_(0, own.to(features.device), features.float())
    counts = marginal_value(sums.cpu() / lengths[:, None], lengths.tolist(), total)
    return dict(zip(ids.tolist(), counts, strict=True))


BudgetRule = Callable[[Tensor, Tensor, int], dict[int, int]]

BUDGETS: dict[str, BudgetRule | None] = {"uniform": by_length, "marginal-value": by_marginal_value, "joint": None}
"""The rules by name. ``"joint"`` splits nothing: one greedy over all segments takes what adds most."""
