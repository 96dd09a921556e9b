"""A tiny LLaVA-OneVision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tests.hf.case import IDS, IMAGE, SIDE, TEXT, VIDEO, VISION, Case, Image, Video, square_frames


def build() -> Case:
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            "model_type": "siglip_vision_model",
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
            "vision_use_head": False,
        },
        vision_feature_layer=-1,
        image_grid_pinpoints=[[SIDE, SIDE]],
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        **IDS,
    )

    return case_of("llava_onevision", LlavaOnevisionForConditionalGeneration(config), newlines=1)


def case_of(name: str, model: Any, newlines: int) -> Case:
    """What the LLaVA models share: one run of square frames a video, with ``newlines`` of its tokens behind."""

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        # An image is one base view and one tile.
        frames, pictures = square_frames(videos, images, 2)
        result: dict[str, Any] = {}
        if frames:
            result["pixel_values_videos"] = torch.stack(frames)
        if pictures:
            result["pixel_values"] = torch.stack(pictures)
            result["image_sizes"] = torch.tensor([[SIDE, SIDE]] * len(images))
        return result

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [IMAGE] * (36 + 6 * 7)
        return [VIDEO] * (part.frames * part.height * part.width + newlines)

    return Case(name, model, encode, wrap, fixed_grid=(3, 3))
