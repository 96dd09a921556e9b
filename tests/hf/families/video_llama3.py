"""A tiny VideoLLaMA3, with or without its processor's compression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from tests.hf.case import IDS, IMAGE, TEXT, VIDEO, VISION, Case, Image, Video, patches_of

MERGE = 2
TIME, SECONDS, COMMA = 11, 12, 13
"""Words of the timestamps."""
_DIGITS = 20


def kept(video: Video) -> Tensor:
    """``(T, H, W)`` bool: cells that a compression leaves; all of the first frame, at least one of the others."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(*video, generator=generator) > 0.5
    mask[0], mask[1:, 0, 0] = True, True
    return mask


def build(*, compressed: bool = False) -> Case:
    config = VideoLlama3Config(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            **VISION,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        initializer_range=0.2,
        **IDS,
    )

    def cells(video: Video) -> Tensor:
        return kept(video) if compressed else torch.ones(*video, dtype=torch.bool)

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        result = patches_of(videos, images, 3 * 4 * 4, merge=MERGE)
        for kind in ("video", "image"):
            if f"{kind}_grid_thw" in result:
                result[f"{kind}_merge_sizes"] = torch.full((len(result[f"{kind}_grid_thw"]),), MERGE)
        if videos:
            result["video_compression_mask"] = torch.cat([cells(video).flatten() for video in videos])
        return result

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [IMAGE] * (part.height * part.width)
        frames = [
            [COMMA, TIME, _DIGITS + second, SECONDS, *[VIDEO] * int(frame.sum())]
            for second, frame in enumerate(cells(part))
        ]
        return [token for frame in frames for token in frame][1:]

    return Case("video_llama3", VideoLlama3ForConditionalGeneration(config), encode, wrap)
