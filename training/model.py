"""The bundled checkpoint's parts: tokenizer, processor and an untrained model of the real class."""

from __future__ import annotations

import torch
from checkpoint import END, IMAGE, PAD, VIDEO, frame_processor, start_local, word_tokenizer
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from framefusion.needle.footage import FRAME_SIZE
from framefusion.needle.objects import COLOR_NAMES, KINDS
from framefusion.needle.questions import PUNCTUATION, vocabulary
from framefusion.needle.scenes import TOKEN_GRID

PATCH_SIZE = FRAME_SIZE // (2 * TOKEN_GRID)
TOKENS_PER_FRAME = TOKEN_GRID * TOKEN_GRID
LAYERS, WIDTH = 12, 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the questions' vocabulary."""
    return word_tokenizer([*PUNCTUATION, "user", "assistant", "system", *vocabulary()], longest=8192)


def build_processor() -> LlavaOnevisionProcessor:
    """The class's own processor: frames resized to 96 × 96, scaled to −1 … 1, never re-sampled in time."""
    return frame_processor(build_tokenizer(), FRAME_SIZE, PATCH_SIZE)


def decoder_config(tokenizer: PreTrainedTokenizerFast) -> dict:
    """What the decoders of both checkpoints have in common: 12 layers × 128, 4 heads."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
    }


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
    """An untrained model: SigLIP tower 3 × 96 with 6-pixel patches, Qwen2 decoder 12 × 128."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (PAD, END, IMAGE, VIDEO)}
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=FRAME_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    text = Qwen2Config(rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **decoder_config(tokenizer))
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        video_token_index=ids[VIDEO],
        image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]],
        vision_aspect_ratio="anyres_max_1",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    start_decoder(model.model.language_model)
    start_local(model.model.vision_tower)
    model.generation_config = GenerationConfig(
        eos_token_id=ids[END], pad_token_id=ids[PAD], max_new_tokens=8, do_sample=False
    )
    return model


@torch.no_grad()
def start_decoder(decoder: torch.nn.Module) -> None:
    """Queries and keys large enough that attention tells tokens apart from the start; quiet residual branches."""
    for layer in decoder.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            torch.nn.init.normal_(linear.weight, std=WIDTH**-0.5)
        torch.nn.init.normal_(layer.self_attn.v_proj.weight, std=WIDTH**-0.5)
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.normal_(linear.weight, std=0.5 * (WIDTH * 2 * LAYERS) ** -0.5)
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            torch.nn.init.normal_(linear.weight, std=WIDTH**-0.5)


@torch.no_grad()
def start_words(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, directions: torch.nn.Module) -> None:
    """Let the words for colours and kinds point where visual tokens of that colour or kind do.

    Large models are trained into such a common space by captions; left to itself, a small decoder learns for one word
    after the other which tokens it means.
    """
    for rows in (model.get_input_embeddings().weight, model.lm_head.weight):
        size = rows.norm(dim=1).mean()
        for names, name in ((COLOR_NAMES, "color"), (KINDS, "kind")):
            for word, direction in zip(names, getattr(directions, name), strict=False):
                rows[tokenizer.convert_tokens_to_ids(word)] += size * direction
