"""Segment-wise DPP: greedy MAP of relevance and diversity in each segment (the default)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from framefusion.selection import select_tokens
from framefusion.selectors.candidates import Candidates


def select(candidates: Candidates) -> Tensor:
    """See :func:`framefusion.select_tokens`; Chen, Zhang & Zhou 2018, arXiv 1709.05135."""
    return select_within(candidates, candidates.budgets)


def select_within(
    candidates: Candidates,
    budgets: Mapping[int, int] | int,
    novelty_lower_bound: float | None = None,
    at_least: int = 0,
) -> Tensor:
    """The same within other bounds than the candidates' budgets.

    Args:
        candidates: their budgets are not read.
        budgets: tokens to keep by segment; or in total, wherever the gains are largest.
        novelty_lower_bound: stop where nothing newer than this is left; None keeps what the budgets say.
        at_least: tokens that stay all the same.

    Returns:
        ``(K,)`` int64 on the features' device.
    """
    chosen = select_tokens(
        candidates.features,
        candidates.relevance,
        candidates.segments,
        budgets,
        joint=isinstance(budgets, int),
        novelty_lower_bound=novelty_lower_bound or 0.0,
        at_least=at_least,
    )
    assert isinstance(chosen, Tensor)
    return chosen
