"""A tiny PerceptionLM. Its own vision tower needs the package timm; a SigLIP takes its place here, which makes no
difference to where its tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PerceptionLMConfig, PerceptionLMForConditionalGeneration

from tests.hf.case import IDS, IMAGE, SIDE, TEXT, VIDEO, VISION, Case, Image, Video, square_frames

TILES = 3
"""Views of a test image: the whole and two tiles."""


def build() -> Case:
    config = PerceptionLMConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            "model_type": "siglip_vision_model",
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
            "vision_use_head": False,
            "initializer_range": 0.2,
            "model_args": {"embed_dim": VISION["hidden_size"]},
        },
        vision_use_cls_token=False,
        projector_pooling_ratio=2,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **IDS,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, TILES)
        result = {"pixel_values_videos": frames, "pixel_values": pictures}
        return {name: torch.stack(pixels) for name, pixels in result.items() if pixels}

    def wrap(part: Video | Image) -> list[int]:
        size = part.height * part.width
        return [IMAGE] * (TILES * size) if isinstance(part, Image) else [VIDEO] * (part.frames * size)

    return Case("perception_lm", PerceptionLMForConditionalGeneration(config), encode, wrap, fixed_grid=(3, 3))
