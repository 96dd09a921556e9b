"""A decoding step, or several new tokens at once, behind layers that a reduced prefill shortened."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framefusion.hf import cache as caches
from framefusion.hf import cache_layers, masks, refusals
from framefusion.hf.decoder import Decoder, window_of
from framefusion.hf.slots import Slots

STEP_MASKS = 8
"""Decoding masks that a cache keeps: more than the kinds of layers of a step, and few enough to forget."""


def mask_of(decoder: Decoder, index: int, hidden: Tensor, cache: Any, given: Any) -> Any:
    """The attention mask of the new tokens in a shortened layer.

    Args:
        decoder: that runs.
        index: of the layer, one that a prefill shortened.
        hidden: ``(B, q, D)``.
        cache: with what the prefill left on it.
        given: the mask that the model made for the layer.

    Returns:
        in the form that the attention implementation takes.

    Raises:
        ValueError: the cache is static, and the implementation takes no dense mask.
    """
    lender, slots = decoder.lenders[index], caches.slots_of(cache, index)
    layer, added = cache.layers[lender], lender != index
    assert slots is not None
    if cache_layers.is_shortened_static(layer):
        refusals.static_cache(decoder)
        columns = cache_layers.static_columns(layer, slots, hidden.shape[1], added=added).to(hidden.device)
        return masks.static_step(given, columns)
    layout, config = caches.layout_of(cache), decoder.module.config
    assert layout is not None
    # A lender holds the new tokens by the time that others attend to its keys.
    kv_length = cache_layers.kv_length(layer) - (hidden.shape[1] if added else 0)
    refusals.too_long(decoder, slots.length + kv_length - slots.columns.shape[1] + hidden.shape[1])
    window = window_of(decoder.layers[index])
    # All that the mask follows from, beside the mask that was given. A tuple, which dynamo hashes.
    key = slots, kv_length, hidden.shape[1], window, hidden.dtype, hidden.device, config._attn_implementation
    known = layout.steps.get(key)
    if known is not None and known[0] is given:
        return known[1]
    mask = _dynamic(config, hidden, slots, kv_length, window, given)
    if len(layout.steps) >= STEP_MASKS:
        layout.steps.clear()
    layout.steps[key] = (given, mask)
    return mask


def _dynamic(config: Any, hidden: Tensor, slots: Slots, kv_length: int, window: int | None, given: Any) -> Any:
    """The mask over the ``kv_length`` slots of a dynamic layer and the new tokens."""
    device = hidden.device
    # A cache may have been cropped into the text at the end of its prompt.
    prefilled = slots.columns[:, :kv_length].to(device)
    batch, kept = prefilled.shape
    first = slots.length - (slots.columns.shape[1] - kept)
    tail = kv_length - kept + hidden.shape[1]
    # (B, tail): what came behind the prompt, one column after the other, and the new tokens.
    new = torch.arange(first, first + tail, device=device).expand(batch, -1)
    columns, valid = torch.cat([prefilled, new], dim=1), None
    seen = masks.tail_of(given, tail)
    if slots.padded or seen is not None:
        seen = torch.ones_like(new, dtype=torch.bool) if seen is None else seen.to(device)
        valid = torch.cat([prefilled >= 0, seen.expand(batch, -1)], dim=1)
    return masks.decoding(config, hidden, columns, valid, window, first + tail)
