"""A tiny Qwen3-VL-MoE."""

from __future__ import annotations

from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from tests.hf.case import Case
from tests.hf.families.qwen3_vl import case_of


def build() -> Case:
    # Three of four: rounding may swap the last one of the chosen, which should not weigh much.
    text = {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 3}
    return case_of("qwen3_vl_moe", Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, text)
