"""A tiny ERNIE 4.5 VL, whose visual tokens have experts of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration

from tests.hf.case import END, IDS, IMAGE, START, TEXT, VIDEO, Case, Image, Video, mrope_types, patches_of

VIDEO_START, VIDEO_END = 5, 6


def build() -> Case:
    config = Ernie4_5_VLMoeConfig(
        text_config={
            **TEXT,
            "tie_word_embeddings": False,
            "moe_intermediate_size": [48, 24],
            # Three of four: rounding may swap the last one of the chosen, which should not weigh much.
            "moe_k": 3,
            "moe_num_experts": 4,
            "moe_num_shared_experts": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        image_start_token_id=START,
        image_end_token_id=END,
        video_start_token_id=VIDEO_START,
        video_end_token_id=VIDEO_END,
        tie_word_embeddings=False,
        initializer_range=0.2,
        **IDS,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        result = patches_of(videos, images, 3 * 4 * 4)
        if videos:
            # A pair is a frame and the same again, darker.
            grids = result["video_grid_thw"]
            frames = result["pixel_values_videos"].split(grids[:, 1:].prod(1).repeat_interleave(grids[:, 0]).tolist())
            result["pixel_values_videos"] = torch.cat([0.8**t * frame for frame in frames for t in range(2)])
            result["video_grid_thw"] = grids * torch.tensor([2, 1, 1])
        return result

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            return [START, *[IMAGE] * (part.height * part.width), END]
        return [VIDEO_START, *[VIDEO] * (part.frames * part.height * part.width), VIDEO_END]

    model = Ernie4_5_VLMoeForConditionalGeneration(config)
    return Case("ernie4_5_vl_moe", model, encode, wrap, finish=_types)


def _types(batch: dict[str, Any]) -> None:
    mrope_types(batch)
    ids = batch["input_ids"]
    images, videos = torch.tensor([IMAGE, START, END]), torch.tensor([VIDEO, VIDEO_START, VIDEO_END])
    batch["moe_mm_token_type_ids"] = torch.isin(ids, images).long() + 2 * torch.isin(ids, videos).long()
