"""Random-weight checkpoints of the classes that are pruned in vLLM, with heads wide enough for its CPU kernels."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from tests.tiny_checkpoints import TEMPLATE, tokenizer

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 64,
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 6, 6],
        "mrope_interleaved": True,
    },
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
VISION = {
    "depth": 3,
    "deepstack_visual_indexes": [0, 1],
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 7,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 64,
    "initializer_range": 0.2,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}


LINEAR = {
    # A quarter of the head would hold too few frequencies for three axes.
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    # The engine's CPU kernel knows no narrower ones.
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
"""Of Qwen3.5: two layers whose state sees every token once, and one with attention."""
CLASSES = {
    "qwen3_vl": (hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration, {}, {}),
    "qwen3_vl_moe": (hf.Qwen3VLMoeConfig, hf.Qwen3VLMoeForConditionalGeneration, EXPERTS, {}),
    "qwen3_5": (hf.Qwen3_5Config, hf.Qwen3_5ForConditionalGeneration, LINEAR, {"deepstack_visual_indexes": []}),
    "qwen3_5_moe": (
        hf.Qwen3_5MoeConfig,
        hf.Qwen3_5MoeForConditionalGeneration,
        {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 64},
        {"deepstack_visual_indexes": []},
    ),
}
"""Configuration and model of a family, and what its decoder and its encoder have besides."""


def save_qwen3(directory: Path, family: str = "qwen3_vl") -> Path:
    """One of :data:`CLASSES`: 14-pixel tokens, two deepstack layers in Qwen3-VL, three decoder layers."""
    torch.manual_seed(0)
    words = tokenizer()
    config_class, model_class, of_text, of_vision = CLASSES[family]
    config = config_class(
        text_config={**TEXT, **of_text},
        vision_config={**VISION, **of_vision},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    # One normalization for both, as in the released checkpoints: vLLM applies that of images to videos.
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    patches = {**half, "patch_size": 7, "merge_size": 2, "temporal_patch_size": 2}
    processor = hf.Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 56 * 56}, **patches),
        tokenizer=words,
        video_processor=hf.Qwen3VLVideoProcessor(
            # Of a whole video: 56 by 42 pixels for 32 frames.
            size={"shortest_edge": 14 * 14, "longest_edge": 56 * 56 * 32},
            do_sample_frames=False,
            **patches,
        ),
        chat_template=TEMPLATE.replace("{{ VIDEO }}", "<|vision_start|><|video_pad|><|vision_end|>"),
    )
    model = model_class(config).eval()
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            if hasattr(layer, "linear_attn"):
                # As drawn, most heads would forget a token at the next one.
                layer.linear_attn.A_log.sub_(4)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    if family == "qwen3_vl_moe":
        _as_released(directory / "model.safetensors")
    return directory


def _as_released(weights: Path) -> None:
    """Experts as released checkpoints have them and vLLM reads them; transformers reads both, but writes another."""
    state = load_file(weights)
    for name, value in state.items():
        if ".experts." in name:
            state[name] = value.transpose(1, 2).contiguous()
    save_file(state, weights, metadata={"format": "pt"})
