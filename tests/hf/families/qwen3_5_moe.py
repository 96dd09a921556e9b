"""A tiny Qwen3.5-MoE."""

from __future__ import annotations

from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from tests.hf.case import Case
from tests.hf.families.qwen3_5 import case_of

# Three of four: rounding may swap the last one of the chosen, which should not weigh much.
EXPERTS = {
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    "num_experts": 4,
    "num_experts_per_tok": 3,
}


def build() -> Case:
    return case_of("qwen3_5_moe", Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, EXPERTS)
