"""Tiny random-weight models of the supported families: one module of :mod:`tests.hf.families` and one name each."""

from __future__ import annotations

from importlib import import_module

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


def build(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Case:
    """One family's tiny model with fixed weights."""
    torch.manual_seed(1)
    case: Case = import_module(f"tests.hf.families.{name}").build()
    case.model.to(dtype).eval()
    case.model.set_attn_implementation(attention)
    return case
