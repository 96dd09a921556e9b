"""A tiny Gemma 3n: two states of each token, inputs of each layer's own, and last layers that borrow keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn
from transformers import AutoModel, Gemma3nConfig, Gemma3nForConditionalGeneration

from tests.hf.case import END, IMAGE, START, TEXT, Case, Image, Video
from tests.hf.families import gemma3

_WIDTH = 64
"""Of what the smallest tower of timm gives."""
_NEWLINES = 9


class Tower(nn.Module):
    """In the place of MobileNet, which needs the package timm: each of nine squares of a frame projected by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, _WIDTH, 8, 8)

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.project(pixel_values))


def checkpoint() -> Any:
    """The model with a tower of timm, as users have it."""
    return Gemma3nForConditionalGeneration(_config()).eval()


def build() -> Case:
    made = AutoModel.from_config

    def from_config(own: Any, **kwargs: Any) -> Any:
        return Tower() if own.model_type == "gemma3n_vision" else made(own, **kwargs)

    with patch.object(AutoModel, "from_config", from_config):
        model = Gemma3nForConditionalGeneration(_config())
    return Case("gemma3n", model, gemma3.encode, wrap, fixed_grid=(3, 3), finish=gemma3.finish)


def wrap(part: Video | Image) -> list[int]:
    return gemma3.wrap(part)


def _config() -> Gemma3nConfig:
    return Gemma3nConfig(
        text_config={
            **TEXT,
            "intermediate_size": [96] * 4,
            "head_dim": 16,
            "sliding_window": gemma3.WINDOW,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": TEXT["vocab_size"],
            "laurel_rank": 8,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
            "final_logit_softcapping": 30.0,
        },
        vision_config={
            "architecture": "test_convnext.r160_in1k",
            "hidden_size": _WIDTH,
            "vocab_offset": 1000,
            "vocab_size": 8,
        },
        audio_config={
            "hidden_size": 32,
            "conf_num_hidden_layers": 1,
            "conf_num_attention_heads": 2,
            "input_feat_size": 16,
            "vocab_offset": 1008,
            "vocab_size": 8,
        },
        vision_soft_tokens_per_image=9,
        image_token_id=IMAGE,
        boi_token_id=START,
        eoi_token_id=END,
        initializer_range=0.2,
    )
