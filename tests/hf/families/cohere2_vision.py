"""A tiny Cohere2-Vision, with windows far shorter than its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cohere2VisionConfig, Cohere2VisionForConditionalGeneration

from tests.hf.case import END, IMAGE, START, TEXT, VISION, Case, Image, Video, square_frames
from tests.hf.families.mistral3 import BREAK, labelled

TILES = 3
"""Views of a test image: two tiles and the whole."""


def build() -> Case:
    config = Cohere2VisionConfig(
        text_config={
            "model_type": "cohere2",
            **TEXT,
            "head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            **VISION,
            "image_size": 24,
            "patch_size": 4,
            "vision_use_head": False,
        },
        image_token_id=IMAGE,
        downsample_factor=2,
        alignment_intermediate_size=64,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, TILES)
        return {"pixel_values": torch.cat(frames + pictures)}

    def wrap(part: Video | Image) -> list[int]:
        tiles = TILES if isinstance(part, Image) else 1
        tile = [*[IMAGE] * (part.height * part.width), BREAK]
        return labelled(part, [START, *tile * tiles, END])

    model = Cohere2VisionForConditionalGeneration(config)
    return Case("cohere2_vision", model, encode, wrap, fixed_grid=(3, 3))
