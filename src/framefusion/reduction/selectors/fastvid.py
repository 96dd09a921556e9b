"""FastVID: density peaks of anchor frames, which take in the rest of their segment."""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.reduction.budgets import uniform
from framefusion.reduction.merging import most_similar_kept
from framefusion.reduction.selectors.candidates import Candidates, Selected
from framefusion.reduction.selectors.clusters import blend, peaks
from framefusion.reduction.selectors.groups import by_frame

STRIDE = 4
"""Every how many frames of a segment an anchor frame lies, ``p``."""

NEIGHBOURS = 4
"""Nearest tokens that make the density."""

CONTEXT = 0.4
"""Share of the budget that goes to density, ``d``, where there is relevance for the rest."""

OWN = 0.6
"""Weight of an anchor token among those that it takes in, ``β``."""


def select(candidates: Candidates) -> Selected:
    """Density-based token merging in each segment, beside the most relevant tokens of each frame (FastVID,
    arXiv 2503.11187, STPrune); meant for DySeg segments.

    With relevance, ``1 - d`` of a segment's budget goes to the most relevant tokens of its frames, evenly. The rest,
    or without relevance all of it, goes to anchor frames: every fourth, counted back from the last frame of the
    segment, and closer together where these could not hold twice the budget. In each of them the tokens with the
    highest density score stay, and every other token of the segment merges into the anchor token most similar to
    it by cosine: ``0.6`` anchor and ``0.4`` mean of what it takes in.

    Relevance is the vision encoder's attention in the paper. There each token merges once in every anchor frame, here
    once in all.
    """
    everyone = torch.arange(len(candidates.segments))
    salient, anchors = torch.zeros_like(everyone, dtype=torch.bool), torch.zeros_like(everyone, dtype=torch.bool)
    for segment, count in candidates.budgets.items():
        frames = by_frame(candidates, segment)
        if candidates.relevance is not None:
            context = int(CONTEXT * count)
            salient[_most_relevant(candidates.relevance.cpu(), frames, count - context)] = True
            frames, count = [frame[~salient[frame]] for frame in frames], context
        anchors[_density_peaks(candidates.features, frames, count)] = True
    target = most_similar_kept(candidates.features, candidates.segments, anchors, lower_bound=-torch.inf)
    # Salient tokens neither merge nor take in others.
    target = torch.where(salient, everyone, target)
    indices = (salient | anchors).nonzero().squeeze(-1)
    return Selected(indices, target, blend(candidates.features, target, indices, OWN))


def _most_relevant(relevance: Tensor, frames: list[Tensor], count: int) -> Tensor:
    """The most relevant tokens of each frame, ``count`` in all, ties to the lower index."""
    counts = uniform([len(frame) for frame in frames], count)
    chosen = [
        frame[torch.argsort(relevance[frame], descending=True, stable=True)[:own]]
        for frame, own in zip(frames, counts, strict=True)
    ]
    return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long)


def _density_peaks(features: Tensor, frames: list[Tensor], count: int) -> Tensor:
    """The density peaks of the anchor frames, ``count`` in all."""
    anchors = [frames[f] for f in _anchor_frames([len(frame) for frame in frames], count)]
    counts = uniform([len(frame) for frame in anchors], count)
    chosen = [torch.zeros(0, dtype=torch.long)]
    for frame, own in zip(anchors, counts, strict=True):
        if own:
            chosen.append(frame[peaks(features[frame.to(features.device)], own, NEIGHBOURS).cpu()])
    return torch.cat(chosen)


def _anchor_frames(sizes: list[int], count: int) -> list[int]:
    """The anchor frames of a segment, with ``sizes`` tokens in each frame, that shall keep ``count`` of them."""
    last = len(sizes) - 1
    for stride in range(STRIDE, 1, -1):
        frames = [f for f in range(len(sizes)) if (last - f) % stride == 0]
        if sum(sizes[f] for f in frames) >= 2 * count:
            return frames
    return list(range(len(sizes)))
