"""FLoC: the tokens that all others are most similar to, by the facility location function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.selectors.candidates import Candidates

HELD = 1 << 27
"""Similarities that are kept; those of more than 11,585 tokens are computed again where they are asked for."""

BATCH = 32
"""Gains that are brought up to date at once."""


def select(candidates: Candidates) -> Tensor:
    """Greedy facility location in each segment (FLoC, arXiv 2511.00141): ``max Σᵢ max_{j ∈ S} cos(i, j)``.

    Each next token is the one that raises the sum over all tokens, of each one's largest cosine with a kept token, the
    most; ties go to the lower index. The greedy is lazy, as published (Minoux 1978): gains only ever shrink, so an old
    one is an upper bound, and most tokens are never looked at again. Time O(n²·D) once, then O(n) for each gain.
    """
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        if count:
            members = (candidates.segments == segment).nonzero().squeeze(-1)
            features = candidates.features[members.to(candidates.features.device)]
            chosen.append(members[facility_location(features, count).cpu()])
    return torch.cat(chosen)


def facility_location(features: Tensor, count: int) -> Tensor:
    """The lazy greedy.

    Args:
        features: ``(n, D)``, any float dtype; computed in float32 (float64 stays float64).
        count: rows to choose, from 1 to n.

    Returns:
        ``(count,)`` int64 rows in greedy order.
    """
    unit = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    held = unit @ unit.T if len(unit) ** 2 <= HELD else None
    # No cosine is below -1. Counted from there the function is monotone and submodular whatever the signs of the
    # cosines, which is what makes an old gain a bound; the choices are the same.
    covered = unit.new_full((len(unit),), -1.0)
    bound = _gains(unit, held, torch.arange(len(unit), device=unit.device), covered)
    stale = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    chosen = torch.zeros(count, dtype=torch.long, device=unit.device)
    for t in range(count):
        best = int(bound.argmax())
        while bool(stale[best]):
            rows = torch.where(stale, bound, -torch.inf).topk(min(BATCH, len(bound))).indices
            rows = rows[stale[rows]]
            bound[rows] = _gains(unit, held, rows, covered)
            stale[rows] = False
            best = int(bound.argmax())
        chosen[t] = best
        covered = torch.maximum(covered, _similarity(unit, held, chosen[t : t + 1])[0])
        bound[best] = -torch.inf
        stale = bound > -torch.inf
    return chosen


def _similarity(unit: Tensor, held: Tensor | None, rows: Tensor) -> Tensor:
    """``(r, n)`` cosines of some rows with all."""
    return unit[rows] @ unit.T if held is None else held[rows]


def _gains(unit: Tensor, held: Tensor | None, rows: Tensor, covered: Tensor) -> Tensor:
    """What each of some rows would add to the sum."""
    parts = rows.split(max(1, (1 << 22) // len(unit)))
    return torch.cat([(_similarity(unit, held, part) - covered).clamp_min_(0).sum(1) for part in parts])
