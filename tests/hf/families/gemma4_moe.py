"""A tiny Gemma 4 like 26B-A4B: experts beside each MLP."""

from __future__ import annotations

import torch

from tests.hf.case import Case
from tests.hf.families import gemma4


def build() -> Case:
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
    case = gemma4.case_of("gemma4_moe", {"use_bidirectional_attention": "vision", "attention_k_eq_v": True, **experts})
    for layer in case.model.get_decoder().layers:
        # Experts that rounding to half precision may exchange.
        torch.nn.init.constant_(layer.post_feedforward_layernorm_2.weight, 0.2)
    return case
