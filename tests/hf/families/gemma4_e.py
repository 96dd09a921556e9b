"""A tiny Gemma 4 like E2B and E4B: inputs of each layer's own, and last layers that attend to keys of earlier ones."""

from __future__ import annotations

import torch

from tests.hf.case import TEXT, Case
from tests.hf.families import gemma4


def build() -> Case:
    small = {
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": TEXT["vocab_size"],
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
    }
    case = gemma4.case_of("gemma4_e", small)
    # Patches at one place are similar enough to merge.
    torch.nn.init.normal_(case.model.model.vision_tower.patch_embedder.position_embedding_table, std=0.5)
    return case
