"""A tiny InternVL, and how its processor labels frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from tests.hf.case import END, IMAGE, PAD, SIDE, START, TEXT, VISION, Case, Image, Video, square_frames

TILES = 3
"""Views of a test image: two tiles and the whole."""
NEWLINE, FRAME, COLON, SPACE = 11, 12, 13, 14
"""Words of the labels."""
_DIGITS = 20


def label(number: int) -> list[int]:
    """``Frame7: <img>``."""
    return [FRAME, *(_DIGITS + int(digit) for digit in str(number)), COLON, SPACE, START]


def build() -> Case:
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            **VISION,
            "image_size": [SIDE, SIDE],
            "patch_size": [4, 4],
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
        image_seq_length=9,
        pad_token_id=PAD,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, TILES)
        return {"pixel_values": torch.cat(frames + pictures)}

    def wrap(part: Video | Image) -> list[int]:
        view = [IMAGE] * (part.height * part.width)
        if isinstance(part, Image):
            return [START, *view * TILES, END]
        frames = [[*label(number), *view, END] for number in range(1, part.frames + 1)]
        return [token for frame in frames for token in [NEWLINE, *frame]][1:]

    return Case("internvl", InternVLForConditionalGeneration(config), encode, wrap, fixed_grid=(3, 3))
