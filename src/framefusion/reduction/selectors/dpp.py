"""Segment-wise DPP: greedy MAP of relevance and diversity in each segment (the default)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.checks import check_number
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.selection import LONG_SEGMENT, select_and_assign, select_tokens

GAUSSIAN_TOKENS = 2048
"""Longest segment with the Gaussian kernel, whose greedy takes time by the square of it."""


@dataclass(frozen=True)
class Kernel:
    """The kernel of a determinantal point process over the tokens of a segment; its rules are below.

    Attributes:
        gamma: in (0, 20], default 1: the Gaussian kernel ``exp(2·gamma·(cos − 1))`` of the tokens' directions; None the
            kernel of cosines, whose rank ends after as many picks as there are dimensions, and on real features long
            before. With the Gaussian kernel, segments of more than :data:`GAUSSIAN_TOKENS` tokens are cut into equal
            runs of frames (not with the segmentation ``"single"``), and where one still has more than 4,096, that of
            cosines is taken.
        later_frames: in (0, 1], default 0.95: what tokens behind the first frame of their segment count relative to
            those in it. Noise makes every frame of a scene a little new; below 1, a scene is rather kept in one piece.
            1 makes all frames equal.
    """

    gamma: float | None = 1.0
    later_frames: float = 0.95

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.gamma is not None:
            check_number(f"{name}.gamma", self.gamma, 0, 20, open_below=True)
        check_number(f"{name}.later_frames", self.later_frames, 0, 1, open_below=True)

    def __call__(self, candidates: Candidates) -> Tensor | Selected:
        raise NotImplementedError

    def greedy(
        self,
        candidates: Candidates,
        budgets: Mapping[int, int] | int,
        novelty_lower_bound: float | None = None,
        at_least: int = 0,
        exhausted: str = "fill",
    ) -> Tensor:
        """One greedy MAP (Chen, Zhang & Zhou 2018, arXiv 1709.05135).

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
            self.weights(candidates),
            candidates.segments,
            budgets,
            joint=isinstance(budgets, int),
            novelty_lower_bound=novelty_lower_bound or 0.0,
            at_least=at_least,
            exhausted=exhausted,
            gamma=self.gamma_of(candidates),
        )
        assert isinstance(chosen, Tensor)
        return chosen

    def weights(self, candidates: Candidates) -> Tensor | None:
        """The relevance that the kernel is weighed by: less for what is behind the first frame of its segment.

        Noise makes copies of a token differ, and a greedy of diversity alone would piece a scene together from many
        frames.
        """
        if self.later_frames == 1:
            return candidates.relevance
        count = int(candidates.segments.max()) + 1 if len(candidates.segments) else 0
        first = torch.full((count,), torch.iinfo(torch.int64).max)
        first.scatter_reduce_(0, candidates.segments, candidates.frames, "amin")
        behind = (candidates.frames != first[candidates.segments]).to(candidates.features.device)
        relevance = candidates.relevance
        relevance = behind.new_ones(behind.shape, dtype=torch.float32) if relevance is None else relevance
        return torch.where(behind, relevance * self.later_frames, relevance)

    def gamma_of(self, candidates: Candidates) -> float | None:
        """``gamma``; None, the kernel of cosines, where a segment is too long for a matrix of all its pairs."""
        lengths = candidates.segments.bincount() if len(candidates.segments) else candidates.segments
        return None if bool((lengths > LONG_SEGMENT).any()) else self.gamma


@dataclass(frozen=True)
class DPP(Kernel):
    """Greedy MAP, again and again until the budgets are spent.

    With the kernel of cosines a greedy is over once the kept tokens span their segment, after as many as the features
    have dimensions at the most: all determinants are 0 from there on. The Gaussian kernel ends at copies only. What is
    left of the budget goes to a new greedy over the tokens that are left. Filling up by relevance or by index instead
    would favour one place of the video.
    """

    def __call__(self, candidates: Candidates) -> Tensor | Selected:
        bound = candidates.merge_above
        if bound is None:
            return self.greedy(candidates, candidates.budgets, exhausted="restart")
        chosen, nearest, similarity = select_and_assign(
            candidates.features,
            self.weights(candidates),
            candidates.segments,
            candidates.budgets,
            exhausted="restart",
            gamma=self.gamma_of(candidates),
        )
        target = torch.where(similarity >= bound, nearest, -1)
        target[chosen.cpu()] = chosen.cpu()
        return Selected(chosen, target)


@dataclass(frozen=True)
class DPPOnce(Kernel):
    """One greedy; what it leaves of a budget goes to the most relevant tokens (:func:`framefusion.select_tokens`)."""

    def __call__(self, candidates: Candidates) -> Tensor:
        return self.greedy(candidates, candidates.budgets)
