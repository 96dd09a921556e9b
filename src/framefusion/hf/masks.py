"""Attention masks of a shortened sequence, built by ``transformers`` for the attention implementation in use."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.masking_utils import create_causal_mask


class _Held:
    """Stands for a cache of which one layer holds ``length`` slots."""

    is_compileable = False

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + query_length, 0


def causal(config: Any, hidden: Tensor, valid: Tensor | None, held: int = 0) -> Any:
    """The causal mask for ``hidden`` after ``held`` slots of cache.

    Args:
        config: the decoder's config, which names the attention implementation.
        hidden: ``(B, q, D)``, the queries.
        valid: ``(B, held + q)`` bool, or None when nothing is padding.
        held: slots already in the layer's cache.

    Returns:
        What the implementation takes: None, a 2D, 4D or block mask.
    """
    cache: Any = _Held(held) if held else None
    # Positions are left out: gaps in them would be taken for packed sequences.
    return create_causal_mask(
        config=config, inputs_embeds=hidden, attention_mask=valid, past_key_values=cache, position_ids=None
    )
