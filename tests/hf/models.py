"""Tiny random-weight models of the supported families: one module of :mod:`tests.hf.families` and one name each."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import pytest
import torch

from tests.hf.case import Case

BUILDERS = (
    "gemma3",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen2_5_omni",
    "qwen3_omni",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm46v",
    "glm4v_moe",
    "llava_next_video",
    "internvl",
    "video_llama3",
    "smolvlm",
    "idefics3",
    "minicpmv4_6",
    "minicpmv4_7",
    "gemma4",
    "gemma4_moe",
    "gemma4_e",
    "mistral3",
    "ministral3",
    "llava",
    "llava_next",
    "gemma3n",
    "llama4",
    "cohere2_vision",
    "aria",
    "video_llava",
    "ovis2",
    "kimi_k25",
    "exaone4_5",
    "lfm2_vl",
    "lfm3_vl",
    "molmo2",
    "perception_lm",
    "ernie4_5_vl_moe",
    "nemotron_h_omni",
)

SIBLINGS = {"gemma4_moe": "gemma4", "gemma4_e": "gemma4", "ministral3": "mistral3"}
"""Further models of a family, by the builder of the first one, which has the name of the family's file."""


APART = {
    "llava_onevision": "a video is one row of placeholders, of frames of one size",
    "qwen2_5_vl": "positions of three axes, two frames a patch, and the seconds between them",
    "qwen3_vl": "times are written between the patches, and features come in behind the first layers",
    "qwen3_5": "states of linear attention beside keys and values",
    "glm4v": "a prompt has videos or photographs, and frames have the placeholders of images",
    "video_llama3": "frames of a video are fewer tokens than photographs",
    "gemma3": "frames are images; windows, and visual tokens that look ahead",
    "gemma3n": "layers borrow keys and values, and tokens have several states",
    "gemma4": "an own processor of videos, and an encoding for each layer",
    "mistral3": "rows of patches end in a token",
    "internvl": "photographs are tiles",
    "smolvlm": "frames are counted in words",
    "minicpmv4_7": "positions of frames depend on how many there are",
    "llama4": "tiles with separators, and layers without positions",
    "kimi_k25": "latent attention, and chunks of frames",
    "lfm2_vl": "convolutions beside attention",
    "molmo2": "frames attend to those behind them",
    "nemotron_h_omni": "layers of three kinds, of which only some have keys, and no positions",
}
"""Families that the code takes different ways for, and what it is."""


def apart(names: Iterable[str] = BUILDERS) -> list[Any]:
    """Parameters of a test whose way through the code is that of :data:`APART` for the other families too: those are
    run by ``make test-all``."""
    return [name if name in APART else pytest.param(name, marks=pytest.mark.whole) for name in names]


def build(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Case:
    """One family's tiny model with fixed weights."""
    torch.manual_seed(1)
    case: Case = import_module(f"tests.hf.families.{name}").build()
    case.model.to(dtype).eval()
    case.model.set_attn_implementation(attention)
    return case
