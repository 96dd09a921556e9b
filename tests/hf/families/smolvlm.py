"""A tiny SmolVLM, and how its processor labels frames; Idefics3 is built alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from tests.hf.case import IMAGE, PAD, SIDE, TEXT, VISION, Case, Image, Video, square_frames

VIEWS = 3
"""Views of a test image: two tiles and the whole."""
FAKE, WHOLE, LEFT, RIGHT = 5, 6, 7, 8
"""Markers: around views, of whole views, of the first and the second tile."""
NEWLINE, FRAME, FROM, SPACE, COLON = 11, 12, 13, 14, 15
INTRO = [16, 17, 18, 19, NEWLINE]
"""Words of the labels, and what stands before a video."""
_DIGITS = 20


def label(second: int) -> list[int]:
    """``Frame from 00:07:`` and what opens a frame."""
    minutes, seconds = ([_DIGITS + int(digit) for digit in f"{part:02d}"] for part in divmod(second, 60))
    return [FRAME, FROM, SPACE, *minutes, COLON, *seconds, COLON, FAKE, WHOLE]


def case_of(name: str, config_class: Any, model_class: Any) -> Case:
    config = config_class(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        scale_factor=2,
        image_token_id=IMAGE,
        pad_token_id=PAD,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, VIEWS)
        # Views of zeros are padding.
        return {"pixel_values": torch.nn.utils.rnn.pad_sequence(frames + pictures, batch_first=True)}

    def wrap(part: Video | Image) -> list[int]:
        view = [IMAGE] * (part.height * part.width)
        if isinstance(part, Image):
            tiles = [FAKE, LEFT, *view, FAKE, RIGHT, *view, NEWLINE]
            return [*tiles, NEWLINE, FAKE, WHOLE, *view, FAKE]
        frames = [[NEWLINE, *label(second), *view, FAKE] for second in range(part.frames)]
        return [*INTRO, *(token for frame in frames for token in frame), NEWLINE, NEWLINE]

    return Case(name, model_class(config), encode, wrap, fixed_grid=(3, 3))


def build() -> Case:
    return case_of("smolvlm", SmolVLMConfig, SmolVLMForConditionalGeneration)
