"""A tiny Kimi-K2.5, and how its processor labels the chunks of a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Kimi_K25Config, Kimi_K25ForConditionalGeneration

from tests.hf.case import END, IDS, IMAGE, START, TEXT, VIDEO, Case, Image, Video, patches_of

CHUNK = 2
"""Frames of a chunk; the processor takes four."""
OF_IMAGE, OF_VIDEO, CONTENT, DOT, COLON = 11, 12, 5, 13, 14
"""Words and markers of the labels."""
_NUMBERS = 20
"""Two or three digits are one token."""


def label(second: int) -> list[int]:
    """``00:00:07.000<|media_begin|>video<|media_content|>``."""
    hours, minutes, seconds = (_NUMBERS + part for part in (second // 3600, second // 60 % 60, second % 60))
    return [hours, COLON, minutes, COLON, seconds, DOT, _NUMBERS, START, OF_VIDEO, CONTENT]


def build() -> Case:
    config = Kimi_K25Config(
        text_config={
            "model_type": "deepseek_v3",
            **TEXT,
            "initializer_range": 0.15,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 48,
            # Three of four: rounding may swap the last one of the chosen, which should not weigh much.
            "n_routed_experts": 4,
            "num_experts_per_tok": 3,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 24,
            "q_lora_rank": 24,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
            "initializer_range": 0.2,
        },
        projection_hidden_size=32,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
        initializer_range=0.2,
        **IDS,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        result = patches_of(videos, images, 3 * 4 * 4)
        for name in ("pixel_values_videos", "pixel_values"):
            if name in result:
                result[name] = result[name].unflatten(1, (3, 4, 4))
        if videos:
            # A chunk is a frame and the same again, darker: each frame's patches stand together, as in the grids.
            grids = result["video_grid_thw"]
            frames = result["pixel_values_videos"].split(grids[:, 1:].prod(1).repeat_interleave(grids[:, 0]).tolist())
            result["pixel_values_videos"] = torch.cat([0.8**t * frame for frame in frames for t in range(CHUNK)])
            result["video_grid_thw"] = grids.repeat_interleave(grids[:, 0], 0)
            result["video_grid_thw"][:, 0] = CHUNK
        return result

    def wrap(part: Video | Image) -> list[int]:
        size = part.height * part.width
        if isinstance(part, Image):
            return [START, OF_IMAGE, CONTENT, *[IMAGE] * size, END]
        return [token for t in range(part.frames) for token in [*label(CHUNK * t), *[VIDEO] * size, END]]

    return Case("kimi_k25", Kimi_K25ForConditionalGeneration(config), encode, wrap)
