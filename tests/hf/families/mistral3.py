"""A tiny Mistral 3 with Mistral's decoder, as Mistral Small 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from tests.hf.case import END, FIRST_WORD, IMAGE, TEXT, VISION, Case, Image, Video, scenes

BREAK = 5
_COLON = 15
_LABEL = [11, 12, 13, 14, 20, _COLON]
"""A newline, ``Frame``, ``from``, a space, minutes and a colon; then seconds and another one."""
_CELL = 8
"""Pixels of the side of a token: two patches of four."""


def build() -> Case:
    return case_of("mistral3", {"model_type": "mistral", "head_dim": 16, "sliding_window": None})


def case_of(name: str, text: dict[str, Any]) -> Case:
    config = Mistral3Config(
        text_config={**TEXT, **text},
        vision_config={"model_type": "pixtral", **VISION, "head_dim": 16, "image_size": 64, "patch_size": 4},
        image_token_id=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
        initializer_range=0.2,
    )
    model = Mistral3ForConditionalGeneration(config)
    return Case(name, model, encode, wrap)


def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
    """Frames first, as tests with both put them; pixels are padded to one size."""
    items = [*videos, *(Video(1, *image) for image in images)]
    pixels = [
        scenes(frames, 3, (_CELL * height, _CELL * width), seed) for seed, (frames, height, width) in enumerate(items)
    ]
    sizes = [[_CELL * height, _CELL * width] for frames, height, width in items for _ in range(frames)]
    return {"pixel_values": torch.cat(pixels), "image_sizes": torch.tensor(sizes)}


def labelled(part: Video | Image, picture: list[int]) -> list[int]:
    """Each frame of a video behind its time, or an image."""
    if isinstance(part, Image):
        return picture
    times = [[*_LABEL, FIRST_WORD + 10 + frame, _COLON] for frame in range(part.frames)]
    return [token for time in times for token in [*time, *picture]]


def wrap(part: Video | Image) -> list[int]:
    rows = [*[IMAGE] * part.width, BREAK] * part.height
    return labelled(part, [*rows[:-1], END])
