"""V-CAST: more tokens for frames where the video turns, and in each frame the outliers of large norm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.reduction.budgets import apportion
from framefusion.reduction.selectors.candidates import Candidates
from framefusion.reduction.selectors.groups import by_frame

TEMPERATURE = 0.7
"""Of the softmax over the frames' curvature."""


def select(candidates: Candidates) -> Tensor:
    """Frame budgets from the curvature of the frames' path, tokens by two anchors (V-CAST, arXiv 2603.27650).

    In each segment, with ``r_t`` the normalised mean token of frame ``t``, the curvature is
    ``c_t = 1 - cos(r_t - r_{t-1}, r_{t+1} - r_t)``, 1 for the first and the last frame and where nothing moves. The
    frames share the budget in proportion to ``softmax(c / 0.7)``, at least one token each where it allows that. A
    frame keeps the tokens of the largest ``1 - cos(x, r_t)`` plus norm, scaled to [0, 1] in the frame; ties go to the
    lower index.
    """
    chosen = [torch.zeros(0, dtype=torch.long)]
    for segment, count in candidates.budgets.items():
        frames = by_frame(candidates, segment)
        if not frames:
            continue
        tokens = [_wide(candidates.features, frame) for frame in frames]
        means = F.normalize(torch.stack([x.mean(0) for x in tokens]), dim=-1)
        weights = torch.softmax(_curvature(means) / TEMPERATURE, dim=0).tolist()
        counts = apportion(weights, count, [len(frame) for frame in frames])
        for frame, x, mean, own in zip(frames, tokens, means, counts, strict=True):
            order = torch.argsort(_score(x, mean), descending=True, stable=True)
            chosen.append(frame[order[:own].cpu()])
    return torch.cat(chosen)


def _wide(features: Tensor, rows: Tensor) -> Tensor:
    return features[rows.to(features.device)].to(torch.promote_types(features.dtype, torch.float32))


def _curvature(means: Tensor) -> Tensor:
    """``(T,)`` of the ``(T, D)`` path of the frames."""
    steps = means.diff(dim=0)
    curvature = means.new_ones(len(means))
    curvature[1:-1] = 1 - F.cosine_similarity(steps[:-1], steps[1:], dim=-1)
    return curvature


def _score(tokens: Tensor, mean: Tensor) -> Tensor:
    norm = tokens.norm(dim=-1)
    spread = (norm.max() - norm.min()).clamp_min(1e-12)
    return 1 - F.normalize(tokens, dim=-1) @ mean + (norm - norm.min()) / spread
