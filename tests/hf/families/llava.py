"""A tiny LLaVA with CLIP's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tests.hf.case import IMAGE, SIDE, TEXT, VISION, Case, Image, Video, square_frames
from tests.hf.families.mistral3 import labelled

_TOKENS = (SIDE // 8) ** 2


def build() -> Case:
    config = LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": SIDE, "patch_size": 8},
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, 1)
        return {"pixel_values": torch.cat(frames + pictures)}

    def wrap(part: Video | Image) -> list[int]:
        return labelled(part, [IMAGE] * _TOKENS)

    return Case("llava", LlavaForConditionalGeneration(config), encode, wrap, fixed_grid=(3, 3))
