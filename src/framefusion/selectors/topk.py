"""The most relevant tokens of each segment: attention top-k, FrameFusion's and FastV's rule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def select(features: Tensor, relevance: Tensor | None, segments: Tensor, budgets: Mapping[int, int]) -> Tensor:
    """Highest relevance first, ties to the lower index (FrameFusion, arXiv 2501.01986; FastV, arXiv 2403.06764).

    Raises:
        ValueError: there is no relevance to rank by.
    """
    if relevance is None:
        raise ValueError(
            "selector 'topk' ranks by relevance, but there is none: set relevance to 'last' or 'text', and start "
            "the stages at layer 1 or later, where attention exists."
        )
    order = torch.argsort(relevance, descending=True, stable=True)
    sorted_segments = segments.to(order.device)[order]
    chosen = [order[sorted_segments == segment][:count] for segment, count in budgets.items()]
    return torch.cat(chosen) if chosen else order[:0]
