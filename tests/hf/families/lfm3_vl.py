"""A tiny LFM3-VL: short convolutions, a window and full attention."""

from __future__ import annotations

from functools import partial

from transformers import Lfm3VlConfig, Lfm3VlForConditionalGeneration

from tests.hf.case import END, FIRST_WORD, IDS, IMAGE, START, TEXT, VIDEO, Case, Image, Video, patches_of
from tests.hf.families.qwen2_vl import PATCH, WIDTH

WINDOW = 16


def build() -> Case:
    config = Lfm3VlConfig(
        text_config={
            "model_type": "lfm3",
            **TEXT,
            "head_dim": 16,
            "sliding_window": WINDOW,
            # Attention first, so that the stage plans of all families can be followed.
            "layer_types": ["full_attention", "conv", "sliding_attention", "conv"],
            "conv_L_cache": 4,
        },
        vision_config={
            **PATCH,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "layer_types": ["conv", "full_attention"],
            "initializer_range": 0.2,
        },
        projector_hidden_size=64,
        vision_start_token_id=START,
        vision_end_token_id=END,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **IDS,
    )

    def wrap(part: Video | Image) -> list[int]:
        size = part.height * part.width
        if isinstance(part, Image):
            return [START, *[IMAGE] * size, END]
        return [token for t in range(part.frames) for token in [FIRST_WORD + t, 20, START, *[VIDEO] * size, END]]

    return Case("lfm3_vl", Lfm3VlForConditionalGeneration(config), partial(patches_of, width=WIDTH), wrap)
