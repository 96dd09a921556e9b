"""Efficient Video Sampling: the tokens that changed most since the frame before."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.reduction.merging import previous_at_same_patch, previous_similarity
from framefusion.reduction.selectors import uniform
from framefusion.reduction.selectors.candidates import Candidates


def select(candidates: Candidates) -> Tensor:
    """Largest ``1 - cos`` with the same patch of the frame before (EVS, arXiv 2510.14624; the rule in vLLM).

    The first frame has nothing before it and stays whole, before any other token; ties go to the lower index. A
    budget below the first frame, which EVS would overrun, takes evenly spaced tokens of it.
    """
    segments = candidates.segments
    previous = previous_at_same_patch(candidates.frames, candidates.patches)
    similarity = previous_similarity(candidates.features, previous.to(candidates.features.device)).cpu()
    order = torch.argsort(similarity, stable=True)
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        members = order[segments[order] == segment]
        if count < int((previous[members] < 0).sum()):
            first = torch.where(previous < 0, segments, -1)
            members = uniform.select(candidates._replace(segments=first, budgets={segment: count}))
        chosen.append(members[:count])
    return torch.cat(chosen)
