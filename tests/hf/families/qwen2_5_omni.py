"""The thinker of a tiny Qwen2.5-Omni, and what it shares with that of Qwen3-Omni."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from tests.hf.case import END, IMAGE, MROPE, START, TEXT, VIDEO, Case, Image, Video, patches_of
from tests.hf.families.qwen2_vl import PATCH, WIDTH

AUDIO, AUDIO_START, AUDIO_END = 5, 6, 7
HEARING = {
    "num_mel_bins": 8,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 16,
    "output_dim": 64,
    "initializer_range": 0.2,
}


def case_of(
    name: str,
    config_class: Any,
    model_class: Any,
    *,
    text: dict[str, Any],
    vision: dict[str, Any],
    audio: dict[str, Any],
    ids: dict[str, int],
) -> Case:
    config = config_class(
        text_config={**TEXT, **MROPE, **text},
        vision_config={**PATCH, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, **vision},
        audio_config={**HEARING, **audio},
        audio_start_token_id=AUDIO_START,
        position_id_per_seconds=4,
        initializer_range=0.2,
        **ids,
    )
    config.vision_start_token_id = START

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        seconds = {"video_second_per_grid": torch.full((len(videos),), 1.0)} if videos else {}
        return {**patches_of(videos, images, WIDTH), **seconds}

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [START, *[IMAGE] * (part.height * part.width), END]
        return [START, *[VIDEO] * (part.frames * part.height * part.width), END]

    return Case(name, model_class(config), encode, wrap)


def build() -> Case:
    return case_of(
        "qwen2_5_omni",
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        text={},
        vision={"depth": 2, "out_hidden_size": 64, "window_size": 16, "fullatt_block_indexes": [1]},
        audio={"n_window": 4},
        ids={"image_token_index": IMAGE, "video_token_index": VIDEO, "audio_token_index": AUDIO},
    )
