"""A tiny Aria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AriaConfig, AriaForConditionalGeneration

from tests.hf.case import END, IMAGE, START, TEXT, VISION, Case, Image, Video, scenes
from tests.hf.families.mistral3 import labelled

_TOKENS, CROPS = 9, 2
_PIXELS = 490
"""Of the side of a view; the processor knows this and twice as many."""


def build() -> Case:
    config = AriaConfig(
        text_config={
            "model_type": "aria_text",
            **TEXT,
            "moe_num_experts": 4,
            "moe_topk": 2,
            "moe_num_shared_experts": 1,
        },
        vision_config={"model_type": "idefics3_vision", **VISION, "image_size": 2 * _PIXELS, "patch_size": 70},
        projector_patch_to_query_dict={7 * 7: _TOKENS, 14 * 14: 16},
        image_token_index=IMAGE,
        initializer_range=0.2,
    )
    model = AriaForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.query, std=0.2)
    for name, own in model.named_parameters():
        if name.endswith("experts.down_proj"):
            # Rounding to half precision may choose other ones.
            own.data.mul_(0.1)

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        # A patch is all of one color.
        frames, pictures = (
            [scenes(count, 3, (7, 7), seed + 100 * index) for seed, count in enumerate(counts)]
            for index, counts in enumerate([[video.frames for video in videos], [CROPS for _ in images]])
        )
        pixels = torch.cat(frames + pictures).repeat_interleave(70, 2).repeat_interleave(70, 3)
        return {"pixel_values": pixels, "pixel_mask": torch.ones(len(pixels), _PIXELS, _PIXELS, dtype=torch.bool)}

    def wrap(part: Video | Image) -> list[int]:
        crops = CROPS if isinstance(part, Image) else 1
        return labelled(part, [START, *[IMAGE] * _TOKENS * crops, END])

    return Case("aria", model, encode, wrap, fixed_grid=(1, _TOKENS))
