"""What the small checkpoints have in common: vocabulary, decoder, and what the training must know of a family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from checkpoint import END, PAD, SPECIAL, START, word_tokenizer
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from framefusion.evaluation.needle.footage import FRAME_SIZE
from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS
from framefusion.evaluation.needle.questions import PUNCTUATION, vocabulary
from framefusion.evaluation.needle.scenes import TOKEN_GRID

PATCH_SIZE = FRAME_SIZE // (2 * TOKEN_GRID)
TOKENS_PER_FRAME = TOKEN_GRID * TOKEN_GRID
LAYERS, WIDTH = 12, 128
LONGEST = 8192
"""Tokens of the longest prompt."""
NEIGHBOURS = (
    ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
    ((-2, -2), (2, -2), (-2, 2), (2, 2)),
)
"""Where the heads of the tower's layers look at first, in patches (x, y): attention begins as a small convolution and
is free to leave it (ConViT, arXiv 2103.10697). From a random start a tower takes many more steps to tell shapes."""


class Family(ABC):
    """An architecture to train: how it is built, sees, and lays out a prompt.

    A *slot* is what a visual token covers in time: one frame, or ``frames_per_slot`` of them.
    """

    frames_per_slot = 1
    special: Sequence[str] = ()
    """Special tokens besides those that every prompt has."""
    before_video = ""
    """Special tokens between ``user`` and the video."""

    @property
    def opening(self) -> str:
        """A prompt up to its video."""
        return f"{START}user{self.before_video}"

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Word-level tokenizer over the questions' vocabulary."""
        words = [*PUNCTUATION, "user", "assistant", "system", *vocabulary()]
        return word_tokenizer([*SPECIAL, *self.special], words, longest=LONGEST)

    @abstractmethod
    def processor(self) -> Any:
        """The class's own processor: square frames of 96 pixels, scaled to −1 … 1, never re-sampled in time."""

    def build(self, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        """An untrained model that begins as the training wants it."""
        model = self.create(tokenizer)
        start_decoder(model.model.language_model)
        self.start_tower(self.tower(model))
        end, pad = (tokenizer.convert_tokens_to_ids(name) for name in (END, PAD))
        model.generation_config = GenerationConfig(
            eos_token_id=end, pad_token_id=pad, max_new_tokens=8, do_sample=False
        )
        return model

    @abstractmethod
    def create(self, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        """A model with the class's own random weights."""

    @abstractmethod
    def start_tower(self, tower: nn.Module) -> None:
        """Let each head of the vision tower begin by looking at a neighbouring patch, see :data:`NEIGHBOURS`."""

    @abstractmethod
    def blocks(self, model: nn.Module) -> Iterable[nn.Module]:
        """The layers of the vision tower."""

    @abstractmethod
    def seeing(self, model: nn.Module) -> list[nn.Parameter]:
        """What the first phase trains."""

    @abstractmethod
    def encode(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """From pixels ``(F, 3, 96, 96)`` to the visual tokens ``(slots, 64, D)``, as the class computes them."""

    @abstractmethod
    def closing(self, model: nn.Module) -> Tensor:
        """``(D,)``: the token right behind the video."""

    def own(self, model: nn.Module) -> list[nn.Parameter]:
        """What the second phase trains besides the decoder and its head."""
        return []

    @abstractmethod
    def positions(self, places: Tensor, slots: int, first: int) -> tuple[Tensor, int]:
        """Rotary positions ``(…, V, K)`` of visual tokens, and that of the token behind the video.

        ``places`` ``(V, K)`` counts them among those of ``slots`` slots, the first of which stands at ``first``.
        """

    def set_attention(self, model: nn.Module, name: str) -> None:
        """Let the tower compute its attention by the function of this name."""
        self.tower(model).config._attn_implementation = name

    @abstractmethod
    def tower(self, model: nn.Module) -> nn.Module:
        """The vision tower."""


def decoder_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What the decoders have in common: 12 layers × 128, 4 heads."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": LONGEST,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
    }


@torch.no_grad()
def start_decoder(decoder: nn.Module) -> None:
    """Queries and keys large enough that attention tells tokens apart from the start; quiet residual branches."""
    for layer in decoder.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            nn.init.normal_(linear.weight, std=WIDTH**-0.5)
        nn.init.normal_(layer.self_attn.v_proj.weight, std=WIDTH**-0.5)
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.normal_(linear.weight, std=0.5 * (WIDTH * 2 * LAYERS) ** -0.5)
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            nn.init.normal_(linear.weight, std=WIDTH**-0.5)


@torch.no_grad()
def start_words(model: nn.Module, tokenizer: PreTrainedTokenizerFast, directions: nn.Module) -> None:
    """Let the words for colours and kinds point where visual tokens of that colour or kind do.

    Large models are trained into such a common space by captions; left to itself, a small decoder learns for one word
    after the other which tokens it means.
    """
    for rows in (model.get_input_embeddings().weight, model.lm_head.weight):
        size = rows.norm(dim=1).mean()
        for names, name in ((COLOR_NAMES, "color"), (KINDS, "kind")):
            for word, direction in zip(names, getattr(directions, name), strict=False):
                rows[tokenizer.convert_tokens_to_ids(word)] += size * direction
