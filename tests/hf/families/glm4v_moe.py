"""A tiny GLM-4.5V."""

from __future__ import annotations

from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

from tests.hf.case import Case
from tests.hf.families.glm4v import case_of


def build() -> Case:
    # Three of four: rounding may swap the last one of the chosen, which should not weigh much.
    text = {
        "head_dim": 16,
        "moe_intermediate_size": 48,
        "n_routed_experts": 4,
        "num_experts_per_tok": 3,
        "first_k_dense_replace": 1,
    }
    return case_of("glm4v_moe", Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, text)
