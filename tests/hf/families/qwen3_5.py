"""A tiny Qwen3.5, and what it shares with its mixture-of-experts sibling."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from tests.hf.case import PAD, Case
from tests.hf.families import qwen3_vl

LINEAR, FULL = "linear_attention", "full_attention"
TEXT = {
    # A quarter of the head would hold too few frequencies for three axes.
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
    },
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    # Softmax attention first, so that the stage plans of all families can be followed; the order of the released
    # models is tested in tests/hf/test_hybrid.py.
    "layer_types": [FULL, LINEAR, LINEAR, FULL],
}


def case_of(name: str, config_class: Any, model_class: Any, text: dict[str, Any]) -> Case:
    case = qwen3_vl.case_of(name, config_class, model_class, {**TEXT, **text})
    remember(case.model)
    return case


def remember(model: Any) -> None:
    """Weights that show what a state of linear attention takes in."""
    with torch.no_grad():
        # Zeros would pass without a trace; in released models padding has a vector.
        model.get_input_embeddings().weight[PAD].normal_()
        for layer in model.get_decoder().layers:
            if hasattr(layer, "linear_attn"):
                # As drawn, most heads would forget a token at the next one.
                layer.linear_attn.A_log.sub_(4)


def build() -> Case:
    return case_of("qwen3_5", Qwen3_5Config, Qwen3_5ForConditionalGeneration, {})
