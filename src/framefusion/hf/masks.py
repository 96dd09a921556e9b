"""Attention masks of a shortened sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from framefusion.errors import ArgumentError
from framefusion.hf.calls import cache_argument
from framefusion.reduction.relevance import HIDDEN

DENSE = ("eager", "sdpa")
"""Attention implementations that take a dense ``(B, 1, q, kv)`` mask."""


class _FilledCache:
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


def causal(config: Any, hidden: Tensor, valid: Tensor | None, past_length: int = 0) -> Any:
    """The causal mask for ``hidden`` after ``past_length`` slots of cache, built by ``transformers``.

    Args:
        config: the decoder's config, which names the attention implementation.
        hidden: ``(B, q, D)``, the queries.
        valid: ``(B, past_length + q)`` bool, or None when nothing is padding.
        past_length: slots already in the layer's cache.

    Returns:
        What the implementation takes: None, a 2D, 4D or block mask.
    """
    cache = cache_argument(create_causal_mask, _FilledCache(past_length) if past_length else None)
    # Positions are left out: gaps in them would be taken for packed sequences.
    return create_causal_mask(config=config, inputs_embeds=hidden, attention_mask=valid, position_ids=None, **cache)


def is_dense(mask: Any) -> bool:
    """Whether a mask is a dense ``(B, 1, q, kv)`` tensor, bool (True is visible) or added to the scores."""
    return isinstance(mask, Tensor) and mask.ndim == 4


def visible_columns(mask: Any, batch: int, length: int, *, static: bool = False) -> Tensor:
    """``(B, length)`` bool: the columns of a prompt that are no padding, whatever kind of mask says so.

    Args:
        mask: 2D, dense 4D, a dict of them, or None.
        batch: B.
        length: columns of the prompt: the last ones of the mask, or the first ones of a dense mask of a static cache.
        static: whether the cache is static.

    Raises:
        ValueError: the mask is of another kind.
    """
    mask = _full_attention(mask)
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, -length:].cpu().bool()
    if is_dense(mask):
        own = mask[:, 0, :, :length] if static else mask[:, 0, :, mask.shape[3] - length :]
        # Every token sees itself, padding sees nothing.
        return _as_bool(own).diagonal(dim1=-2, dim2=-1).expand(batch, -1).cpu()
    what = f"has {mask.ndim} dimensions" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
    raise ArgumentError(f"attention_mask {what}; while a reduction is attached it must be 2D (batch, length) or None.")


def visible_before(mask: Any, batch: int, length: int, filled: int) -> Tensor:
    """``(B, filled)`` bool: the columns before a prompt of ``length`` that are no padding, as far as the mask says."""
    mask = _full_attention(mask)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return mask[:, :filled].cpu().bool()
    if is_dense(mask) and mask.shape[3] == filled + length:
        return _as_bool(mask[:, 0, -1, :filled]).expand(batch, -1).cpu()
    return torch.ones(batch, filled, dtype=torch.bool)


def _full_attention(mask: Any) -> Any:
    if isinstance(mask, dict):
        return mask.get("full_attention", next(iter(mask.values()), None))
    return mask


def _as_bool(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask > HIDDEN


def _like(visible: Tensor, given: Tensor) -> Tensor:
    """A dense mask of the same kind as ``given``."""
    if given.dtype == torch.bool:
        return visible
    return torch.zeros_like(visible, dtype=given.dtype).masked_fill(~visible, torch.finfo(given.dtype).min)


def shortened(
    given: Tensor,
    columns: Tensor,
    past: Tensor | None = None,
    slots: int | None = None,
    *,
    keys: Tensor | None = None,
) -> Tensor:
    """The rows and columns of a dense mask that stay.

    Args:
        given: ``(B or 1, 1, N, kv)``, the mask of the whole prompt: its last ``N`` columns are the prompt's, or the
            first ones when the cache is static.
        columns: ``(B, n)`` int64: which column of the prompt stays at each slot, -1 padding.
        past: ``(B, n, P)`` bool: which of the slots held before each query sees, or None.
        slots: slots of the layer's static buffers; the mask is filled up to them. None for other caches.
        keys: ``(B, m)`` int64: which column of the prompt each key is of, -1 for none; None for the queries' own.

    Returns:
        ``(B, 1, n, P + m or slots)``.
    """
    keys = columns if keys is None else keys
    batch, kept = columns.shape
    length = given.shape[2]
    block = _as_bool(given[:, 0, :, :length] if slots is not None else given[:, 0, :, given.shape[3] - length :])
    index = columns.clamp_min(0)
    # (B, N, N) to (B, n, N) to (B, n, m): queries first, then keys.
    rows = block.expand(batch, -1, -1).gather(1, index[:, :, None].expand(-1, -1, length))
    visible = rows.gather(2, keys.clamp_min(0)[:, None, :].expand(-1, kept, -1)) & (keys >= 0)[:, None, :]
    if past is not None:
        visible = torch.cat([past, visible], dim=2)
    if slots is not None:
        visible = torch.nn.functional.pad(visible, (0, slots - keys.shape[1]))
    return _like(visible[:, None], given)


def padded_to(mask: Tensor, slots: int) -> Tensor:
    """A dense mask whose keys go on to ``slots``, none of the new ones visible."""
    missing = slots - mask.shape[3]
    return _like(torch.nn.functional.pad(_as_bool(mask), (0, missing)), mask)


def before(past: Tensor, columns: Tensor, window: int | None) -> Tensor:
    """``(B, n, P)`` bool: which of the slots held before each new token sees.

    Args:
        past: ``(B, P)`` int64, columns of the conversation, -1 padding.
        columns: ``(B, n)`` int64, columns of the conversation of the new tokens, -1 padding.
        window: of a sliding-window layer, in columns; None without.
    """
    visible = (past >= 0)[:, None, :].expand(-1, columns.shape[1], -1)
    if window is not None:
        visible = visible & (columns[:, :, None] - past[:, None, :] < window)
    return visible


def decoding(
    config: Any,
    hidden: Tensor,
    columns: Tensor,
    valid: Tensor | None,
    window: int | None,
    longest: int,
    *,
    groups: Tensor | None = None,
    within: bool = False,
) -> Any:
    """The mask of new tokens behind a shortened layer.

    Args:
        config: the decoder's config.
        hidden: ``(B, q, D)``.
        columns: ``(B, P + q)`` int64: the column of the conversation in each slot, -1 padding.
        valid: ``(B, P + q)`` bool, or None when nothing is padding.
        window: of a sliding-window layer, in columns; None without.
        longest: columns of the conversation; with fewer than ``window`` no window cuts anything.
        groups: ``(B, P + q)`` int64: tokens of one group see each other wherever they are; None without groups.
        within: whether the window cuts groups, too.
    """
    queries = hidden.shape[1]
    past_length = columns.shape[1] - queries
    if window is not None and longest <= window:
        window = None
    if window is None and groups is None:
        return causal(config, hidden, valid, past_length)
    keys = columns if valid is None else torch.where(valid, columns, -1)
    of_queries = None if groups is None else groups[:, past_length:]
    return between(config, hidden, columns[:, past_length:], keys, window, of_queries, groups, within=within)


def between(
    config: Any,
    hidden: Tensor,
    queries: Tensor,
    keys: Tensor,
    window: int | None,
    of_queries: Tensor | None = None,
    of_keys: Tensor | None = None,
    *,
    within: bool = False,
) -> Tensor:
    """A dense mask made from columns alone.

    Args:
        config: the decoder's config.
        hidden: ``(B, q, D)``, of the dtype of the layers.
        queries: ``(B, q)`` int64: the column of the conversation of each query, -1 padding.
        keys: ``(B, k)`` int64: that of each key, -1 for what nobody sees.
        window: of a sliding-window layer, in columns; None without.
        of_queries: ``(B, q)`` int64: tokens of one group see each other wherever they are; None without groups.
        of_keys: ``(B, k)``, likewise.
        within: whether the window cuts groups, too.

    Returns:
        ``(B, 1, q, k)``, bool or added to the scores.
    """
    # (B, q, k): causal by column of the conversation, within the window, no padding.
    visible = keys[:, None, :] <= queries[:, :, None]
    near = visible if window is None else queries[:, :, None] - keys[:, None, :] < window
    if not within:
        visible = visible & near
    if of_queries is not None and of_keys is not None:
        visible = visible | (of_queries[:, :, None] == of_keys[:, None, :])
    if within and window is not None:
        visible = visible & near
    visible = visible & (keys >= 0)[:, None, :]
    kind = torch.zeros((), dtype=hidden.dtype if config._attn_implementation == "eager" else torch.bool)
    return _like(visible[:, None], kind)


def groups_of(mask: Tensor) -> Tensor | None:
    """Which columns of a prompt see each other, as the patches of an image do in some decoders.

    Args:
        mask: ``(1, 1, N, N)``, dense, of a prompt.

    Returns:
        ``(N,)`` int64 on the CPU: the last column that each one sees, the same for all of a group; None where no
        column sees a later one.
    """
    visible = _as_bool(mask[0, 0]).cpu()
    columns = torch.arange(len(visible))
    last = torch.where(visible, columns, -1).amax(1).maximum(columns)
    return None if bool((last == columns).all()) else last


def tail_of(given: Any, count: int) -> Tensor | None:
    """``(B, count)`` bool: which of the last ``count`` columns are no padding, from a 2D or dense mask; None if it
    does not say. Columns that no query has in its window may count as either."""
    if isinstance(given, Tensor) and given.ndim == 2:
        return given[:, -count:].bool()
    if is_dense(given):
        # The window of the last query is not that of the first one, and a layer may hold no more than its window.
        seen = _as_bool(given[:, 0, :, -count:]).any(1)
        return torch.nn.functional.pad(seen, (count - seen.shape[1], 0), value=True)
    return None


def static_step(given: Tensor, columns: Tensor) -> Tensor:
    """The mask of new tokens behind a shortened static layer; nothing but gathers, for compiled steps.

    Args:
        given: ``(B, 1, q, kv)``, the mask over the columns of the conversation, or those of a window.
        columns: ``(B, slots)`` int64: the column of the mask for each slot of the buffers, negative for padding;
            those beyond the mask are not visible.
    """
    known = (columns >= 0) & (columns < given.shape[3])
    # (B, 1, q, slots): of each query the columns of the mask, in the order of the slots.
    index = columns.clamp(0, given.shape[3] - 1)[:, None, None, :].expand(-1, *given.shape[1:3], -1)
    return _like(_as_bool(given).gather(3, index) & known[:, None, None, :], given)
