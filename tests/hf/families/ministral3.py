"""A tiny Mistral 3 with Ministral's decoder, whose attention goes by positions beyond rotary embeddings."""

from __future__ import annotations

from tests.hf.case import Case
from tests.hf.families import mistral3


def build() -> Case:
    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        # Prompts are many times as long as the original ones.
        "llama_4_scaling_beta": 0.4,
    }
    return mistral3.case_of(
        "ministral3", {"model_type": "ministral3", "head_dim": 16, "sliding_window": None, "rope_parameters": rope}
    )
