"""A tiny LFM2-VL: short convolutions between layers of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration

from tests.hf.case import END, FIRST_WORD, IMAGE, START, TEXT, Case, Image, Video, scenes

TILE, THUMBNAIL = 5, 6
"""Markers of the tiles of an image and of the whole of it."""
FRAME, FROM, SPACE, COLON = 11, 12, 13, 14
"""Words of the labels."""
_PATCHES = 6
"""Rows and columns of patches of a frame or tile; two by two make a token."""


def build() -> Case:
    config = Lfm2VlConfig(
        text_config={
            "model_type": "lfm2",
            **TEXT,
            # Attention first, so that the stage plans of all families can be followed.
            "layer_types": ["full_attention", "conv", "conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_patches": 16,
            "patch_size": 4,
            "initializer_range": 0.2,
            "vision_use_head": False,
        },
        image_token_id=IMAGE,
        projector_hidden_size=64,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        cells = _PATCHES * _PATCHES
        frames = [scenes(video.frames, cells, (3 * 4 * 4,), seed) for seed, video in enumerate(videos)]
        views = [scenes(3, cells, (3 * 4 * 4,), 100 + seed) for seed in range(len(images))]
        pixels = torch.cat(frames + views)
        return {
            "pixel_values": pixels,
            "spatial_shapes": torch.full((len(pixels), 2), _PATCHES),
            "pixel_attention_mask": torch.ones(len(pixels), cells, dtype=torch.long),
        }

    def wrap(part: Video | Image) -> list[int]:
        view = [IMAGE] * (part.height * part.width)
        if isinstance(part, Image):
            return [START, TILE, *view, TILE, *view, THUMBNAIL, *view, END]
        labels = [[FRAME, FROM, SPACE, 20, 20, COLON, FIRST_WORD + t, COLON] for t in range(part.frames)]
        return [token for label in labels for token in [FIRST_WORD, *label, START, *view, END]]

    return Case("lfm2_vl", Lfm2VlForConditionalGeneration(config), encode, wrap, fixed_grid=(3, 3))
