"""A tiny Gemma 3, with windows far shorter than its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from tests.hf.case import END, FIRST_WORD, IMAGE, SIDE, START, TEXT, VISION, Case, Image, Video, square_frames

_NEWLINES = 9
_FRAME, _COLON = [30], [31]
WINDOW = 16


def build() -> Case:
    config = Gemma3Config(
        text_config={
            **TEXT,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
            "vision_use_head": False,
        },
        mm_tokens_per_image=9,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        initializer_range=0.2,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)

    return Case("gemma3", model, encode, wrap, fixed_grid=(3, 3), finish=finish, whole_types=True)


def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
    frames, pictures = square_frames(videos, images, 1)
    return {"pixel_values": torch.cat(frames + pictures)}


def wrap(part: Video | Image) -> list[int]:
    frames = part.frames if isinstance(part, Video) else 1
    image = [_NEWLINES, START, *[IMAGE] * (part.height * part.width), END, _NEWLINES]
    labels = [[*_FRAME, FIRST_WORD + frame, *_COLON] if frames > 1 else [] for frame in range(frames)]
    return [token for label in labels for token in [*label, *image]]


def finish(batch: dict[str, Any]) -> None:
    batch["token_type_ids"] = (batch["input_ids"] == IMAGE).int()
