"""The thinker of a tiny Qwen3-Omni."""

from __future__ import annotations

from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from tests.hf.case import IDS, Case
from tests.hf.families.qwen2_5_omni import AUDIO, case_of


def build() -> Case:
    return case_of(
        "qwen3_omni",
        Qwen3OmniMoeThinkerConfig,
        Qwen3OmniMoeThinkerForConditionalGeneration,
        # Three of four experts: rounding may swap the last one of the chosen, which should not weigh much.
        text={"head_dim": 16, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 3},
        vision={
            "depth": 3,
            "deepstack_visual_indexes": [0, 1, 2],
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "initializer_range": 0.2,
        },
        audio={"n_window": 50, "downsample_hidden_size": 8},
        ids={**IDS, "audio_token_id": AUDIO},
    )
