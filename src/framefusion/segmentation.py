"""Temporal segments: which frames belong together. Pure tensors, no model.

Every function returns one segment id per frame, ascending from 0, so that a token's segment is
``segments[frame_of_token]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framefusion.merging import previous_at_same_patch, previous_similarity


def frame_scores(features: Tensor, frames: Tensor, patches: Tensor, similarity_lower_bound: float) -> Tensor:
    """How much each frame resembles the one before it.

    The score of frame ``f`` is the share of its patches whose cosine similarity with the same patch of frame
    ``f - 1`` lies above ``similarity_lower_bound`` (FrameFusion, arXiv 2501.01986; HieraVid, arXiv 2604.01881).

    Args:
        features: ``(N, D)``, any float dtype, the visual tokens of one video.
        frames: ``(N,)`` int64, the frame of each token, from 0.
        patches: ``(N,)`` int64, the position of each token inside its frame, from 0.
        similarity_lower_bound: cosine threshold, in [-1, 1].

    Returns:
        ``(F,)`` float32 on the device of ``features``; ``F`` is the largest frame plus one. The first frame, and
        a frame without tokens, score 0.
    """
    count = int(frames.max()) + 1 if frames.numel() else 0
    scores = torch.zeros(count, dtype=torch.float32, device=features.device)
    if not count:
        return scores
    previous = previous_at_same_patch(frames, patches)
    adjacent = (previous >= 0) & (frames[previous.clamp_min(0)] == frames - 1)
    similar = adjacent & (previous_similarity(features, previous) > similarity_lower_bound)
    tokens = torch.zeros_like(scores).index_add_(0, frames, torch.ones_like(frames, dtype=torch.float32))
    scores.index_add_(0, frames, similar.to(torch.float32))
    return scores / tokens.clamp_min(1)


def by_frame_similarity(scores: Tensor, threshold: float = 0.4) -> Tensor:
    """Start a new segment at every frame whose score is below ``threshold``.

    Args:
        scores: ``(F,)`` from :func:`frame_scores`.
        threshold: share of similar patches below which the scene is taken to have changed. Default 0.4
            (HieraVid).

    Returns:
        ``(F,)`` int64 segment ids; frame 0 is in segment 0.
    """
    starts = scores < threshold
    starts[:1] = False
    return starts.long().cumsum(0)


def fixed_windows(frames: int, window: int) -> Tensor:
    """Consecutive windows of ``window`` frames (DyCoke, arXiv 2411.15024); the last may be shorter.

    Returns:
        ``(frames,)`` int64 segment ids.

    Raises:
        ValueError: ``window`` is below 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 frame, got {window}.")
    return torch.arange(frames) // window


def one_segment(frames: int) -> Tensor:
    """The whole video as one segment: ``(frames,)`` int64 zeros."""
    return torch.zeros(frames, dtype=torch.long)
