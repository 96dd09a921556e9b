"""A tiny Llama 4."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from transformers import Llama4Config, Llama4ForConditionalGeneration
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from tests.hf.case import END, IMAGE, SIDE, START, TEXT, VISION, Case, Image, Video, square_frames
from tests.hf.families.mistral3 import labelled

if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
    # transformers 5.24 asks the language model's output for it, and fails in every forward pass.
    MoeCausalLMOutputWithPast.image_outputs = None

TILES = 3
"""Views of a test image: two tiles and the whole."""
_ACROSS, _DOWN, _WHOLE = 5, 6, 7


def build() -> Case:
    config = Llama4Config(
        text_config={
            **TEXT,
            "intermediate_size_mlp": 96,
            "head_dim": 16,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 0, 1, 0],
            "attention_chunk_size": 1024,
        },
        vision_config={
            **VISION,
            "image_size": SIDE,
            "patch_size": 4,
            "pixel_shuffle_ratio": 0.5,
            "intermediate_size": 128,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "vision_output_dim": 32,
            "initializer_range": 0.2,
        },
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )

    def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
        frames, pictures = square_frames(videos, images, TILES)
        return {"pixel_values": torch.cat(frames + pictures)}

    def wrap(part: Video | Image) -> list[int]:
        view = [IMAGE] * (part.height * part.width)
        tiles = [*view, _ACROSS, *view, _DOWN] if isinstance(part, Image) else []
        return labelled(part, [START, *tiles, _WHOLE, *view, END])

    model = Llama4ForConditionalGeneration(config)
    for name, own in model.named_parameters():
        if name.endswith("experts.down_proj"):
            # Rounding to half precision may choose other ones.
            own.data.mul_(0.1)
    # The class says that its language model with its head is the decoder.
    model.get_decoder = MethodType(lambda own: own.language_model.model, model)
    return Case("llama4", model, encode, wrap, fixed_grid=(3, 3))
