"""What replaces the two functions of vLLM's own rule while an engine selects by framefusion.

The first says how many tokens of a video stay, before its features are known; the second which ones. Each goes around
the function it replaces, which stays in charge of engines without a :class:`Rate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import Tensor

from framefusion.vllm.rate import Rate
from framefusion.vllm.selection import retained_count, retention_mask

COUNT = ("tokens_per_frame", "num_frames", "q")
MASK = ("video_embeds", "video_size_thw", "spatial_merge_size", "q")


def count(stock: Callable[..., int]) -> Callable[..., int]:
    """Around ``compute_retained_tokens_count`` of a module."""

    @wraps(stock)
    def retained(tokens_per_frame: int, num_frames: int, q: float) -> int:
        if isinstance(q, Rate):
            return retained_count(tokens_per_frame, num_frames, q, q.settings)
        return stock(tokens_per_frame=tokens_per_frame, num_frames=num_frames, q=q)

    return retained


def mask(stock: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Around ``compute_retention_mask`` of a module: ``(T * H * W,)`` bool for features of that many tokens."""

    @wraps(stock)
    def retention(video_embeds: Tensor, video_size_thw: Sequence[Any], spatial_merge_size: int, q: float) -> Tensor:
        if not isinstance(q, Rate):
            return stock(video_embeds, video_size_thw=video_size_thw, spatial_merge_size=spatial_merge_size, q=q)
        frames, height, width = map(int, video_size_thw)
        grid = frames, height // spatial_merge_size, width // spatial_merge_size
        return retention_mask(video_embeds, grid, q, q.settings)

    return retention
