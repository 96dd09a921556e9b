"""The most relevant tokens of each segment: attention top-k, FrameFusion's and FastV's rule."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.reduction.selectors.candidates import Candidates


def select(candidates: Candidates) -> Tensor:
    """Highest relevance first, ties to the lower index (FrameFusion, arXiv 2501.01986; FastV, arXiv 2403.06764).

    Raises:
        ValueError: there is no relevance to rank by.
    """
    if candidates.relevance is None:
        raise ArgumentError(
            "selector 'topk' ranks by relevance, but there is none: set relevance to 'last' or 'text', and start "
            "the stages at layer 1 or later, where attention exists."
        )
    order = torch.argsort(candidates.relevance, descending=True, stable=True)
    sorted_segments = candidates.segments.to(order.device)[order]
    chosen = [order[sorted_segments == segment][:count] for segment, count in candidates.budgets.items()]
    return torch.cat(chosen) if chosen else order[:0]
