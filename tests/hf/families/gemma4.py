"""A tiny Gemma 4 like the 31B one: frames see themselves in the layers with windows, which are far shorter than its
prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from tests.hf.case import (
    END,
    FIRST_WORD,
    IMAGE,
    PAD,
    START,
    TEXT,
    VIDEO,
    VISION,
    Case,
    Image,
    Video,
    mrope_types,
    scenes,
)

_PATCH, _POOL, _WIDTH = 4, 3, 4 * 4 * 3
_AUDIO, _SPACE = 5, 9
WINDOW = 16
ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1000000.0},
}


def build() -> Case:
    return case_of("gemma4", {"use_bidirectional_attention": "vision", "attention_k_eq_v": True})


def case_of(name: str, text: dict[str, Any]) -> Case:
    config = Gemma4Config(
        text_config={
            **TEXT,
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": ROPE,
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": 30.0,
            **text,
        },
        vision_config={
            **VISION,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": _PATCH,
            "pooling_kernel_size": _POOL,
            "position_embedding_size": 64,
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=_AUDIO,
        boi_token_id=START,
        eoi_token_id=END,
        pad_token_id=PAD,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    model = Gemma4ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.vision_tower.patch_embedder.position_embedding_table, std=0.2)
    return Case(name, model, encode, wrap, finish=mrope_types, whole_types=True)


def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
    batch: dict[str, Any] = {}
    if videos:
        batch["pixel_values_videos"], batch["video_position_ids"] = _patches(videos, 0)
        batch["num_frames_per_video"] = torch.tensor([video.frames for video in videos])
    if images:
        batch["pixel_values"], batch["image_position_ids"] = _patches([Video(1, *image) for image in images], 100)
    return batch


def _patches(items: Sequence[Video], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(F, P, D)`` and their places ``(F, P, 2)``, padded as the processor pads them."""
    longest = max(height * width for _, height, width in items) * _POOL**2 + 2 * _POOL**2
    pixels, places = [], []
    for index, (frames, height, width) in enumerate(items):
        h, w = height * _POOL, width * _POOL
        patches = scenes(frames, h * w, (_WIDTH,), seed + index).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        own = torch.stack([columns, rows], dim=-1).reshape(1, h * w, 2).expand(frames, -1, -1)
        missing = longest - h * w
        pixels.append(torch.nn.functional.pad(patches, (0, 0, 0, missing)))
        places.append(torch.nn.functional.pad(own, (0, 0, 0, missing), value=-1))
    return torch.cat(pixels), torch.cat(places)


def wrap(part: Video | Image) -> list[int]:
    if isinstance(part, Image):
        return [START, *[IMAGE] * (part.height * part.width), END]
    frame = [START, *[VIDEO] * (part.height * part.width), END]
    # The time of each frame, with a space before all but the first.
    times = [[_SPACE, 20 + number, 31, FIRST_WORD + number, _SPACE] for number in range(part.frames)]
    return [token for time in times for token in [*time, *frame]][1:]
