"""A tiny LLaVA-OneVision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tests.hf.case import IDS, IMAGE, TEXT, VIDEO, Case, Image, Video, scenes

_SIDE = 24


def build() -> Case:
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _SIDE,
            "patch_size": 4,
            "vision_use_head": False,
        },
        vision_feature_layer=-1,
        image_grid_pinpoints=[[_SIDE, _SIDE]],
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        **IDS,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if videos:
            pixels = [scenes(video.frames, 3, (_SIDE, _SIDE), seed) for seed, video in enumerate(videos)]
            result["pixel_values_videos"] = torch.stack(pixels)
        if images:
            # One base view and one tile each.
            pixels = [scenes(2, 3, (_SIDE, _SIDE), 100 + seed) for seed in range(len(images))]
            result["pixel_values"] = torch.stack(pixels)
            result["image_sizes"] = torch.tensor([[_SIDE, _SIDE]] * len(images))
        return result

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [IMAGE] * (36 + 6 * 7)
        return [VIDEO] * (part.frames * part.height * part.width + 1)

    return Case("llava_onevision", LlavaOnevisionForConditionalGeneration(config), encode, wrap, fixed_grid=(3, 3))
