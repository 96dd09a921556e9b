"""Towers over one sequence of patches with grids, as Qwen's: Qwen2-VL, Qwen3-VL with DeepStack, GLM-4.1V."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.hf.towers.base import Clip, Tower
from framefusion.reduction.layout import Kind


class GridTower(Tower):
    """A unit is the patches that merge into one token, of two frames where a patch is two frames deep. A block is told
    by ``cu_seqlens`` which patches attend to each other. The mergers map each unit for itself, so they run over those
    that are encoded as well."""

    def module(self, model: Any) -> Any:
        return model.visual

    def blocks(self, tower: Any) -> Sequence[Any]:
        return list(tower.blocks)

    def attention(self, block: Any) -> Any:
        return block.attn

    def ends(self, tower: Any) -> Sequence[Any]:
        return [tower.merger, *getattr(tower, "deepstack_merger_list", ())]

    def rows_of_unit(self, tower: Any) -> int:
        return int(tower.spatial_merge_size**2)

    def clips(self, arguments: Mapping[str, Any], counts: Sequence[tuple[Kind, int]] | None, tower: Any) -> list[Clip]:
        unit, grids = self.rows_of_unit(tower), arguments["video_grid_thw"].tolist()
        # (N, channels * frames * height * width) of the patches of all videos.
        pixels = arguments["pixel_values_videos"]
        channels = int(getattr(tower.config, "in_channels", 3))
        of = torch.arange(channels).repeat_interleave(pixels.shape[1] // channels).repeat(unit)
        # The pixel values of a patch are channel by channel, and in each frame by frame.
        deep = int(getattr(tower.config, "temporal_patch_size", 1))
        frames = torch.arange(deep).repeat_interleave(pixels.shape[1] // channels // deep).repeat(channels)
        parts = (torch.arange(unit)[:, None] * deep + frames).flatten()
        videos = pixels.split([t * h * w for t, h, w in grids])
        return [
            Clip("video", video.reshape(t, h * w // unit, -1), of, parts)
            for video, (t, h, w) in zip(videos, grids, strict=True)
        ]


class WindowTower(GridTower):
    """Qwen2.5-VL's and EXAONE 4.5's: most blocks attend within windows, and all have the units window by window."""

    def order(self, tower: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        return window_order(tower, arguments["video_grid_thw"])


def window_order(tower: Any, grids: Tensor) -> Tensor:
    """``(U,)`` int64: the units of the videos in the order of Qwen2.5-VL's windows.

    Args:
        tower: the tower.
        grids: ``(V, 3)`` int64: frames, rows and columns of patches of each video.
    """
    if hasattr(tower, "get_window_index"):
        # Older releases of transformers.
        windows, _ = tower.get_window_index(grids)
    else:
        from transformers.vision_utils import get_vision_window_index

        windows, _ = get_vision_window_index(
            grids,
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
    return torch.as_tensor(windows, device=grids.device)
