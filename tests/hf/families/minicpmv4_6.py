"""A tiny MiniCPM-V 4.6, and what it shares with 4.7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

from tests.hf.case import END, IDS, IMAGE, START, TEXT, VIDEO, Case, Image, Video, scenes
from tests.hf.families import qwen3_5

SLICE, SLICE_END, NEWLINE = 5, 6, 7
_NUMBER, _NUMBER_END = 8, 9
_PATCH = 4


def case_of(name: str, config_class: Any, model_class: Any, **ids: int) -> Case:
    config = config_class(
        text_config={"model_type": "qwen3_5_text", **TEXT, **qwen3_5.TEXT, "head_dim": 16},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": _PATCH,
        },
        insert_layer_id=0,
        initializer_range=0.2,
        **IDS,
        **ids,
    )
    model = model_class(config)
    qwen3_5.remember(model)

    def views(count: int, height: int, width: int, seed: int) -> list[Tensor]:
        """Patches of views of one size, each ``(3, p, patches * p)``, four by four for a token."""
        return list(scenes(count, 3, (_PATCH, 16 * height * width * _PATCH), seed))

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if videos:
            units = [view for seed, video in enumerate(videos) for view in views(*video, seed)]
            sizes = [[4 * video.height, 4 * video.width] for video in videos for _ in range(video.frames)]
            result["pixel_values_videos"] = torch.cat(units, dim=-1)[None]
            result["target_sizes_videos"] = torch.tensor(sizes)
        if images:
            # The whole view and two slices.
            units = [view for seed, image in enumerate(images) for view in views(3, *image, 100 + seed)]
            result["pixel_values"] = torch.cat(units, dim=-1)[None]
            result["target_sizes"] = torch.tensor([[4 * h, 4 * w] for h, w in images for _ in range(3)])
        return result

    def wrap(part: Video | Image) -> list[int]:
        number = [_NUMBER, 10, _NUMBER_END]
        if isinstance(part, Video):
            number = number if name == "minicpmv4_6" else []
            return [*number, *[START, *[VIDEO] * (part.height * part.width), END] * part.frames]
        tokens = [IMAGE] * (part.height * part.width)
        return [*number, START, *tokens, END, *[SLICE, *tokens, SLICE_END] * 2]

    return Case(name, model, encode, wrap)


def build() -> Case:
    return case_of("minicpmv4_6", MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration)
