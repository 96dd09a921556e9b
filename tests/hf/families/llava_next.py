"""A tiny LLaVA-NeXT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from tests.hf.case import IMAGE, SIDE, TEXT, VISION, Case, Image, Video, scenes
from tests.hf.families.mistral3 import labelled

_TOKENS = 3 * 3 + 3 * (3 + 1)
"""A base view, and one tile with a newline behind each row."""


def build() -> Case:
    config = LlavaNextConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": SIDE, "patch_size": 8},
        image_grid_pinpoints=[[SIDE, SIDE]],
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        items = [*(video.frames for video in videos), *(1 for _ in images)]
        views = [
            torch.stack([scenes(count, 3, (SIDE, SIDE), seed), scenes(count, 3, (SIDE, SIDE), 50 + seed)], dim=1)
            for seed, count in enumerate(items)
        ]
        pixels = torch.cat(views)
        return {"pixel_values": pixels, "image_sizes": torch.tensor([[SIDE, SIDE]] * len(pixels))}

    def wrap(part: Video | Image) -> list[int]:
        return labelled(part, [IMAGE] * _TOKENS)

    return Case("llava_next", LlavaNextForConditionalGeneration(config), encode, wrap, fixed_grid=(1, _TOKENS))
