"""A tiny Molmo2, whose visual tokens all attend to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from tests.hf.case import END, FIRST_WORD, IMAGE, START, TEXT, Case, Image, Video, scenes

COLUMN, FRAME_START, FRAME_END, LOW = 5, 6, 7, 8
"""Markers: behind every row of an image, around a frame, before an image's small view."""
PATCHES = 6
"""Rows and columns of patches of a crop; two by two make a token."""
TEXT_2 = {name: value for name, value in TEXT.items() if name not in ("pad_token_id", "bos_token_id", "eos_token_id")}


def build() -> Case:
    config = Molmo2Config(
        text_config={
            **TEXT_2,
            "head_dim": 16,
            "additional_vocab_size": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [24, 24],
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        adapter_config={
            "vision_feature_layer": [1, 0],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 48,
            "text_hidden_size": 64,
            "initializer_range": 0.2,
        },
        image_patch_id=IMAGE,
        image_start_token_id=START,
        image_end_token_id=END,
        low_res_image_start_token_id=LOW,
        frame_start_token_id=FRAME_START,
        frame_end_token_id=FRAME_END,
        initializer_range=0.2,
    )

    def wrap(part: Video | Image) -> list[int]:
        if isinstance(part, Image):
            rows = [*[IMAGE] * part.width, COLUMN] * part.height
            return [LOW, *rows, END, START, *rows, END]
        view = [FRAME_START, *[IMAGE] * (part.height * part.width), FRAME_END]
        return [token for t in range(part.frames) for token in [FIRST_WORD + t, 20, *view]]

    model = Molmo2ForConditionalGeneration(config)
    return Case("molmo2", model, _encode, wrap, fixed_grid=(3, 3), finish=_types, mixes=False, whole_types=True)


def _pooling(crops: int) -> torch.Tensor:
    """``(9 * crops, 4)``: the patches of each token."""
    grid = torch.arange(crops * PATCHES * PATCHES).view(crops, PATCHES // 2, 2, PATCHES // 2, 2)
    return grid.permute(0, 1, 3, 2, 4).reshape(-1, 4)


def _encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
    shape = (PATCHES * PATCHES, (3 * 4 * 4,))
    if videos:
        frames = torch.cat([scenes(video.frames, *shape, seed) for seed, video in enumerate(videos)])
        grids = torch.tensor([list(video) for video in videos])
        return {
            "pixel_values_videos": frames,
            "video_token_pooling": _pooling(len(frames)),
            "video_grids": grids,
        }
    crops = torch.cat([scenes(2, *shape, 100 + seed) for seed in range(len(images))])
    return {
        "pixel_values": crops,
        "image_token_pooling": _pooling(len(crops)),
        "image_grids": torch.tensor([[*image, *image] for image in images]),
        "image_num_crops": torch.full((len(images),), 2),
    }


def _types(batch: dict[str, Any]) -> None:
    """Visual tokens and their markers, which attend to each other."""
    marks = torch.tensor([IMAGE, COLUMN, START, END, FRAME_START, FRAME_END, LOW])
    batch["mm_token_type_ids"] = torch.isin(batch["input_ids"], marks).int()
