"""A tiny GLM-4.1V, and what the models of its kind share."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import Glm4vConfig, Glm4vForConditionalGeneration

from tests.hf.case import END, FIRST_WORD, IDS, IMAGE, START, TEXT, Case, Image, Video, patches_of
from tests.hf.families.qwen2_vl import PATCH, WIDTH

VIDEO_START, VIDEO_END = 5, 6
ROPE = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [1, 1, 2],
        "partial_rotary_factor": 0.5,
    }
}
VISION = {
    **PATCH,
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "image_size": 32,
    "initializer_range": 0.1,
}


def case_of(name: str, config_class: Any, model_class: Any, text: dict[str, Any]) -> Case:
    config = config_class(
        text_config={**TEXT, **ROPE, **text},
        vision_config=VISION,
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=VIDEO_START,
        video_end_token_id=VIDEO_END,
        **IDS,
    )

    def wrap(part: Video | Image) -> list[int]:
        frame = [START, *[IMAGE] * (part.height * part.width), END]
        if isinstance(part, Image):
            return frame
        return [VIDEO_START, *(token for t in range(part.frames) for token in [*frame, FIRST_WORD + t]), VIDEO_END]

    return Case(name, model_class(config), partial(patches_of, width=WIDTH), wrap, finish=_types, mixes=False)


def _types(batch: dict[str, Any]) -> None:
    """The token types from which the model computes its positions: an image token is a video's between its marks."""
    ids = batch["input_ids"]
    in_video = (ids == VIDEO_START).cumsum(1) > (ids == VIDEO_END).cumsum(1)
    batch["mm_token_type_ids"] = (ids == IMAGE).int() * (1 + in_video.int())


def build() -> Case:
    return case_of("glm4v", Glm4vConfig, Glm4vForConditionalGeneration, {})
