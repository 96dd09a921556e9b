"""A tiny Nemotron-H-Omni: layers of attention, of Mamba-2 and of experts, each nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import NemotronH_Omni_Reasoning_V3, NemotronH_Omni_Reasoning_V3_Config

from framefusion.hf.decoder import decoder_of
from tests.hf.case import END, FIRST_WORD, IDS, IMAGE, PAD, SIDE, START, TEXT, Case, Image, Video, scenes

FRAME, SPACE, COLON = 11, 12, 13
"""Words of the labels."""
PATCH = 4
MAMBA, EXPERTS, FULL = "linear_attention", "moe", "full_attention"
DECODER = {
    **TEXT,
    "model_type": "nemotron_h",
    "head_dim": 16,
    "ssm_state_size": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "chunk_size": 16,
    # Steps that nothing cuts: the model itself cuts them in a prefill, not when it decodes.
    "time_step_min": 1e-6,
    "time_step_floor": 0.05,
    "time_step_max": 0.5,
    "n_routed_experts": 4,
    # Three of four: rounding may swap the last one of the chosen, which should not weigh much.
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "rescale_prenorm_residual": False,
    # Attention first, so that the stage plans of all families can be followed; the order of the released models is
    # tested in tests/hf/test_hybrid_nemotron.py.
    "layers_block_type": [FULL, MAMBA, EXPERTS, FULL],
}


def build(**decoder: Any) -> Case:
    config = NemotronH_Omni_Reasoning_V3_Config(
        text_config={**DECODER, **decoder},
        vision_config={
            "model_type": "radio",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_ratio": 2.0,
            "patch_size": PATCH,
            "max_img_size": 2 * SIDE,
            "num_cls_tokens": 1,
            "num_registers": 1,
            "summary_idxs": [0],
            "video_temporal_patch_size": 2,
            "initializer_range": 0.2,
        },
        vision_hidden_size=32,
        projector_hidden_size=48,
        **IDS,
    )
    model = NemotronH_Omni_Reasoning_V3(config)
    remember(model)
    return Case("nemotron_h_omni", model, encode, wrap, fixed_grid=(3, 3), mixes=False)


def checkpoint() -> Any:
    """The model with a head for the words of its tokenizer: resizing embeddings leaves that of a model inside alone."""
    return build(vocab_size=160).model.eval()


def remember(model: Any) -> None:
    """Weights that show what a state takes in."""
    with torch.no_grad():
        # Zeros would pass without a trace; in released models padding has a vector.
        model.get_input_embeddings().weight[PAD].normal_()
        for layer in decoder_of(model).layers:
            if layer.block_type == MAMBA:
                # As drawn, most heads would forget a token at the next one.
                layer.mixer.A_log.sub_(4)


def encode(videos: Sequence[Video], images: Sequence[Image]) -> dict[str, Any]:
    if videos:
        # Two frames of three channels are one temporal patch.
        clips = [scenes(video.frames, 2 * 3, (SIDE, SIDE), seed) for seed, video in enumerate(videos)]
        return {"pixel_values_videos": torch.stack(clips)}
    side = SIDE // PATCH
    pixels = [scenes(1, side * side, (3 * PATCH * PATCH,), 100 + seed)[0] for seed in range(len(images))]
    return {"pixel_values": torch.cat(pixels), "image_grid_hw": torch.full((len(images), 2), side)}


def wrap(part: Video | Image) -> list[int]:
    view = [START, *[IMAGE] * (part.height * part.width), END]
    if isinstance(part, Image):
        return view
    frames = [[FRAME, SPACE, FIRST_WORD + t, COLON, *view] for t in range(part.frames)]
    return [token for frame in frames for token in [FIRST_WORD, *frame]][1:]
