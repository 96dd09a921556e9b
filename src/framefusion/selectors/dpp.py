"""Segment-wise DPP: greedy MAP of relevance and diversity in each segment (the default)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from framefusion.selection import select_tokens


def select(features: Tensor, relevance: Tensor | None, segments: Tensor, budgets: Mapping[int, int]) -> Tensor:
    """See :func:`framefusion.select_tokens`; Chen, Zhang & Zhou 2018, arXiv 1709.05135."""
    chosen = select_tokens(features, relevance, segments, budgets)
    assert isinstance(chosen, Tensor)
    return chosen
