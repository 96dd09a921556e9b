"""Evenly spaced tokens of each segment: the control that looks at nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.reduction.selectors.candidates import Candidates


def select(candidates: Candidates) -> Tensor:
    """The middle token of each of ``budget`` equal intervals of the segment."""
    segments = candidates.segments
    chosen = [torch.zeros(0, dtype=torch.long, device=segments.device)]
    for segment, count in candidates.budgets.items():
        members = (segments == segment).nonzero().squeeze(-1)
        steps = torch.arange(count, device=segments.device)
        chosen.append(members[((2 * steps + 1) * len(members)).div(2 * max(count, 1), rounding_mode="floor")])
    return torch.cat(chosen)
