"""VidCom²: more tokens for unusual frames, and in each frame the unusual tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.budgets import apportion
from framefusion.reduction.selectors.candidates import Candidates
from framefusion.reduction.selectors.groups import by_frame

TEMPERATURE = 0.01
"""Of the softmax over the frames' uniqueness."""

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""The ``α`` of the Gaussian kernels ``exp(-d² / 2α)``."""

CHANNELS = 0.5
"""Share of the channels, those of smallest variance, that the published code scores on."""


def select(candidates: Candidates) -> Tensor:
    """Frame budgets from the frames' uniqueness in the video, tokens from theirs in frame and video (VidCom²,
    arXiv 2505.14454).

    A token resembles the video by a sum of Gaussian kernels of its distance from the mean token, all tokens
    normalised, and its frame likewise. The uniqueness ``u`` of a frame is minus the mean resemblance of its tokens
    to the video, and its keep ratio the common one times ``1 + σ - mean σ`` with ``σ = softmax(u / 0.01)``. In each
    frame the tokens stay that resemble frame and video least; ties go to the lower index. Ratios become counts by
    largest remainder, so that the total is exact.
    """
    unit = _scored_channels(candidates.features)
    frames = candidates.frames.to(unit.device)
    tokens = torch.bincount(frames).clamp_min(1)
    sums = unit.new_zeros(len(tokens), unit.shape[1]).index_add_(0, frames, unit)
    of_video = _resemblance(unit, unit.mean(0))
    of_frame = _resemblance(unit, (sums / tokens[:, None])[frames])
    uniqueness = -unit.new_zeros(len(tokens)).index_add_(0, frames, of_video) / tokens
    ids = frames.unique()
    weight = torch.zeros_like(uniqueness)
    share = torch.softmax(uniqueness[ids] / TEMPERATURE, dim=0)
    weight[ids] = 1 + share - share.mean()

    order = torch.argsort(of_video + of_frame, stable=True).cpu()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        groups = by_frame(candidates, segment)
        ratios = [float(weight[candidates.frames[group[0]]]) for group in groups]
        sizes = [len(group) for group in groups]
        counts = apportion([ratio * size for ratio, size in zip(ratios, sizes, strict=True)], count, sizes)
        chosen += [group[rank[group].argsort()[:own]] for group, own in zip(groups, counts, strict=True)]
    return torch.cat(chosen)


def _scored_channels(features: Tensor) -> Tensor:
    """``(N, C)``: the channels of smallest variance, normalised over them."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    variance = wide.var(dim=0, unbiased=False)
    channels = torch.argsort(variance, stable=True)[: max(1, int(CHANNELS * len(variance)))]
    return F.normalize(wide[:, channels], dim=-1)


def _resemblance(unit: Tensor, centre: Tensor) -> Tensor:
    squared = ((unit - centre) ** 2).sum(-1)
    return torch.stack([torch.exp(-squared / (2 * width)) for width in WIDTHS]).sum(0)
