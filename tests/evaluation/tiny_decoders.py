"""Tiny random language models that know the words of the facts, for the classes that the real ones are put into."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from framefusion.evaluation.facts.spelling import ASKED, BEFORE, LABEL
from framefusion.evaluation.facts.wordings import FILLERS, TAILS, WORDINGS

PIECE = r"\n| ?\w+| ?[^\w\s]"
SPECIAL = [
    "<pad>",
    "<eos>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<start_of_image>",
    "<end_of_image>",
    "<unused0>",
    "[unk]",
]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def tokenizer() -> Any:
    """One that has a token for every word, with the space before it."""
    texts = [BEFORE, ASKED, LABEL, *TAILS, *FILLERS]
    for wording in WORDINGS.values():
        texts += [f" {wording.sentence}", *(text for asked in wording.asked for text in (asked.text, f" {asked.lead}"))]
        texts += [f" {word}" for word in (*wording.answers, *wording.keys, *wording.details)]
        texts += wording.keys
    pieces = dict.fromkeys(piece for text in texts for piece in re.findall(PIECE, text))
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *pieces])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), "isolated")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[unk]", pad_token="<pad>", eos_token="<eos>"
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[2:-1]})
    return fast


def qwen2() -> Any:
    """The decoder of a LLaVA-OneVision."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**TEXT, vocab_size=len(tokenizer()), tie_word_embeddings=False)
    return transformers.Qwen2ForCausalLM(config).eval()


def gemma3() -> Any:
    """The decoder of a Gemma 3, with windows shorter than its prompts."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        **TEXT,
        vocab_size=len(tokenizer()),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    return transformers.Gemma3ForCausalLM(config).eval()


TINY = {"qwen2.5-0.5b": qwen2, "gemma3-270m": gemma3}
"""By the name of the real one."""
