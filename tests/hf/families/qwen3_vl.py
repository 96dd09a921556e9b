"""A tiny Qwen3-VL, and what it shares with its mixture-of-experts sibling."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.hf.case import (
    END,
    FIRST_WORD,
    IDS,
    IMAGE,
    MROPE,
    START,
    TEXT,
    VIDEO,
    Case,
    Image,
    Video,
    mrope_types,
    patches_of,
)
from tests.hf.families.qwen2_vl import PATCH, WIDTH

# Three deepstack layers of four, so that stages come before, between and behind them.
VISION = {
    **PATCH,
    "depth": 3,
    "deepstack_visual_indexes": [0, 1, 2],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "initializer_range": 0.2,
}


def case_of(name: str, config_class: Any, model_class: Any, text: dict[str, Any]) -> Case:
    config = config_class(
        text_config={**TEXT, **MROPE, "head_dim": 16, **text},
        vision_config=VISION,
        vision_start_token_id=START,
        vision_end_token_id=END,
        **IDS,
    )

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [START, *[IMAGE] * (part.height * part.width), END]
        frame = [START, *[VIDEO] * (part.height * part.width), END]
        return [START, *(token for t in range(part.frames) for token in [FIRST_WORD + t, 20, *frame]), END]

    return Case(name, model_class(config), partial(patches_of, width=WIDTH), wrap, finish=mrope_types)


def build() -> Case:
    return case_of("qwen3_vl", Qwen3VLConfig, Qwen3VLForConditionalGeneration, {})
