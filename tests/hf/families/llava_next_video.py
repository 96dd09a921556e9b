"""A tiny LLaVA-NeXT-Video."""

from __future__ import annotations

from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from tests.hf.case import IMAGE, SIDE, TEXT, VIDEO, VISION, Case
from tests.hf.families.llava_onevision import case_of


def build() -> Case:
    config = LlavaNextVideoConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={
            "model_type": "clip_vision_model",
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
        },
        image_grid_pinpoints=[[SIDE, SIDE]],
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        initializer_range=0.2,
    )

    return case_of("llava_next_video", LlavaNextVideoForConditionalGeneration(config), newlines=0)
