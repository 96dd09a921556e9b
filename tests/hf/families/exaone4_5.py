"""A tiny EXAONE 4.5, with windows far shorter than its prompts."""

from __future__ import annotations

from functools import partial

from transformers import Exaone4_5_Config, Exaone4_5_ForConditionalGeneration

from tests.hf.case import END, IDS, IMAGE, START, TEXT, VIDEO, Case, Image, Video, patches_of
from tests.hf.families.qwen2_vl import PATCH, WIDTH

WINDOW = 16


def build() -> Case:
    config = Exaone4_5_Config(
        text_config={
            "model_type": "exaone4",
            **TEXT,
            "head_dim": 16,
            "sliding_window": WINDOW,
            "sliding_window_pattern": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            **PATCH,
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "num_key_value_heads": 1,
            "out_hidden_size": 64,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        initializer_range=0.2,
        **IDS,
    )

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [START, *[IMAGE] * (part.height * part.width), END]
        return [START, *[VIDEO] * (part.frames * part.height * part.width), END]

    return Case("exaone4_5", Exaone4_5_ForConditionalGeneration(config), partial(patches_of, width=WIDTH), wrap)
