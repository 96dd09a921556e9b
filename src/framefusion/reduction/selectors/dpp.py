"""Segment-wise DPP: greedy MAP of relevance and diversity in each segment (the default)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.selection import LONG_SEGMENT, select_and_assign, select_tokens

GAUSSIAN_TOKENS = 2048
"""Longest segment with the Gaussian kernel, whose greedy takes time by the square of it."""


def select(candidates: Candidates) -> Tensor | Selected:
    """Greedy MAP (Chen, Zhang & Zhou 2018, arXiv 1709.05135), again and again until the budgets are spent.

    With the kernel of cosines a greedy is over once the kept tokens span their segment, after as many as the features
    have dimensions at the most: all determinants are 0 from there on. The Gaussian kernel ends at copies only. What is
    left of the budget goes to a new greedy over the tokens that are left. Filling up by relevance or by index instead
    would favour one place of the video.
    """
    bound = candidates.merge_above
    if bound is None:
        return select_within(candidates, candidates.budgets, exhausted="restart")
    chosen, nearest, similarity = select_and_assign(
        candidates.features,
        weights(candidates),
        candidates.segments,
        candidates.budgets,
        exhausted="restart",
        gamma=_gamma(candidates),
    )
    target = torch.where(similarity >= bound, nearest, -1)
    target[chosen.cpu()] = chosen.cpu()
    return Selected(chosen, target)


def select_once(candidates: Candidates) -> Tensor:
    """One greedy; what it leaves of a budget goes to the most relevant tokens (:func:`framefusion.select_tokens`)."""
    return select_within(candidates, candidates.budgets)


def weights(candidates: Candidates) -> Tensor | None:
    """The relevance that the kernel is weighed by: less for what is behind the first frame of its segment.

    Noise makes copies of a token differ, and a greedy of diversity alone would piece a scene together from many frames.
    """
    if candidates.later_frames == 1:
        return candidates.relevance
    count = int(candidates.segments.max()) + 1 if len(candidates.segments) else 0
    first = torch.full((count,), torch.iinfo(torch.int64).max)
    first.scatter_reduce_(0, candidates.segments, candidates.frames, "amin")
    behind = (candidates.frames != first[candidates.segments]).to(candidates.features.device)
    relevance = candidates.relevance
    relevance = behind.new_ones(behind.shape, dtype=torch.float32) if relevance is None else relevance
    return torch.where(behind, relevance * candidates.later_frames, relevance)


def _gamma(candidates: Candidates) -> float | None:
    """Of the kernel; None, that of cosines, where a segment is too long for a matrix of all its pairs."""
    lengths = candidates.segments.bincount() if len(candidates.segments) else candidates.segments
    return None if bool((lengths > LONG_SEGMENT).any()) else candidates.gamma


def select_within(
    candidates: Candidates,
    budgets: Mapping[int, int] | int,
    novelty_lower_bound: float | None = None,
    at_least: int = 0,
    exhausted: str = "fill",
) -> Tensor:
    """One greedy within other bounds than the candidates' budgets.

    Args:
        candidates: their budgets are not read.
        budgets: tokens to keep by segment; or in total, wherever the gains are largest.
        novelty_lower_bound: stop where nothing newer than this is left; None keeps what the budgets say.
        at_least: tokens that stay all the same.
        exhausted: see :func:`framefusion.select_tokens`.

    Returns:
        ``(K,)`` int64 on the features' device.
    """
    chosen = select_tokens(
        candidates.features,
        weights(candidates),
        candidates.segments,
        budgets,
        joint=isinstance(budgets, int),
        novelty_lower_bound=novelty_lower_bound or 0.0,
        at_least=at_least,
        exhausted=exhausted,
        gamma=_gamma(candidates),
    )
    assert isinstance(chosen, Tensor)
    return chosen
