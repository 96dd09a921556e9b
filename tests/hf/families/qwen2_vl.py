"""A tiny Qwen2-VL, and what the tiny models of its kind share."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.hf.case import END, IDS, IMAGE, MROPE, START, TEXT, VIDEO, Case, Image, Video, mrope_types, patches_of

PATCH = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
WIDTH = 3 * 2 * 4 * 4


def case_of(name: str, config_class: Any, model_class: Any, vision: dict[str, Any]) -> Case:
    config = config_class(
        text_config={**TEXT, **MROPE},
        vision_config={**PATCH, **vision},
        vision_start_token_id=START,
        vision_end_token_id=END,
        **IDS,
    )

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [START, *[IMAGE] * (part.height * part.width), END]
        return [START, *[VIDEO] * (part.frames * part.height * part.width), END]

    return Case(name, model_class(config), partial(patches_of, width=WIDTH), wrap, finish=mrope_types)


def build() -> Case:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "in_chans": 3}
    return case_of("qwen2_vl", Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision)
