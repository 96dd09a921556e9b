"""A tiny Video-LLaVA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from tests.hf.case import IMAGE, SIDE, TEXT, VIDEO, VISION, Case, Image, Video, square_frames

_TOKENS = (SIDE // 8) ** 2


def build() -> Case:
    config = VideoLlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": SIDE, "patch_size": 8},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_seq_length=_TOKENS,
        video_seq_length=6 * (_TOKENS + 1),
        vision_feature_layer=-1,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, 1)
        batch = {"pixel_values_videos": torch.stack(frames)} if frames else {}
        return {**batch, **({"pixel_values": torch.cat(pictures)} if pictures else {})}

    def wrap(part: Video | Image) -> list[int]:
        return [IMAGE] * _TOKENS if isinstance(part, Image) else [VIDEO] * (part.frames * (_TOKENS + 1))

    model = VideoLlavaForConditionalGeneration(config)
    return Case("video_llava", model, encode, wrap, fixed_grid=(1, _TOKENS + 1))
