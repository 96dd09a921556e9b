"""A tiny Ovis2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Ovis2Config, Ovis2ForConditionalGeneration

from tests.hf.case import END, IMAGE, SIDE, START, TEXT, VISION, Case, Image, Video, square_frames
from tests.hf.families.mistral3 import labelled

TILES = 3
"""Views of a test image: the whole, then two tiles."""
_COLUMN, _ROW, _GRID = 5, 6, 7


def build() -> Case:
    config = Ovis2Config(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
            "vocab_size": 32,
            "hidden_stride": 2,
            "num_visual_indicator_tokens": 5,
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
        visual_indicator_token_ids=[START, END, _GRID, _COLUMN, _ROW],
        vocab_size=TEXT["vocab_size"],
        hidden_size=TEXT["hidden_size"],
        tie_word_embeddings=False,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, TILES)
        return {"pixel_values": torch.cat(frames + pictures)}

    def wrap(part: Video | Image) -> list[int]:
        view = [IMAGE] * (part.height * part.width)
        tiles = [*view, _COLUMN, *view] if isinstance(part, Image) else []
        return labelled(part, [START, *view, _GRID, *tiles, END])

    return Case("ovis2", Ovis2ForConditionalGeneration(config), encode, wrap, fixed_grid=(3, 3))
