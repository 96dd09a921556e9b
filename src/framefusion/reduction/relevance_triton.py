"""The attention that tokens receive, in two Triton kernels;
:func:`framefusion.reduction.relevance.attention_received` takes them on CUDA.

The first finds the log-sum-exp of each asked row, the second sums the columns. Both compute the scores anew, a tile at
a time, so none are kept: memory beyond the result is a few numbers for each row and head. Keys are read in their own
dtype, once for each tile of rows of all heads that share them. Every sum has a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 256
"""Where rows alone make fewer programs than this, the keys are split among several too."""

CAUSAL = tl.constexpr(0)
BOOL = tl.constexpr(1)
ADDED = tl.constexpr(2)

_HIDDEN = tl.constexpr(-1e3)


def tile_options(dtype: torch.dtype, width: int, rows: int) -> dict[str, int]:
    """Tile shape and launch options of both kernels.

    Args:
        dtype: what scores are computed from.
        width: columns of a head.
        rows: asked rows, times the heads that share keys.
    """
    columns = max(16, triton.next_power_of_2(width))
    # Products of float32 take no tensor cores; larger tiles of them do not fit in registers.
    most = 16 if dtype == torch.float32 else 64 if columns <= 128 else 32
    return {
        "ROWS": max(16, min(most, triton.next_power_of_2(rows))),
        "KEYS": most,
        "COLUMNS": columns,
        "num_warps": 2 if dtype == torch.float32 else 4,
        "num_stages": 2,
    }


@triton.jit
def tile_of_rows(
    query, group_heads, head_stride, row_stride, width, rows, n_rows, first,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Queries (ROWS, COLUMNS), their positions, and which of them are asked; rows of all heads of a group, by head."""
    m = first + tl.arange(0, ROWS)
    inside = m < group_heads * n_rows
    position = tl.load(rows + m % n_rows, mask=inside, other=-1)
    asked = position >= 0
    d = tl.arange(0, COLUMNS)
    head = (m // n_rows).to(tl.int64)
    place = query + head[:, None] * head_stride + tl.maximum(position, 0)[:, None] * row_stride + d[None, :]
    return tl.load(place, mask=asked[:, None] & (d < width)[None, :], other=0.0), position, asked


@triton.jit
def tile_of_scores(
    q, position, asked, key, key_stride, width, n, n_keys, held, valid, mask, mask_row_stride, mask_key_stride,
    scaling, softcap, MASK: tl.constexpr, CAPPED: tl.constexpr, WIDEN: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scores of a tile of rows and keys ``n``, and which of them are visible."""
    d = tl.arange(0, COLUMNS)
    k = tl.load(
        key + n[None, :] * key_stride + d[:, None], mask=(n < n_keys)[None, :] & (d < width)[:, None], other=0.0
    )
    if WIDEN:
        q, k = q.to(tl.float32), k.to(tl.float32)
    scores = tl.dot(q, k, input_precision="ieee") * scaling
    if CAPPED:
        # softcap · tanh(scores / softcap), from an exponential that cannot overflow
        small = tl.exp(-2 * tl.abs(scores) / softcap)
        cap = softcap * (1 - small) / (1 + small)
        scores = tl.where(scores < 0, -cap, cap)
    real = tl.load(valid + n, mask=n < n_keys, other=0) != 0
    visible = asked[:, None] & real[None, :]
    if MASK == CAUSAL:
        visible = visible & (n[None, :] <= held + position[:, None])
    else:
        place = mask + tl.maximum(position, 0)[:, None] * mask_row_stride + n[None, :] * mask_key_stride
        if MASK == BOOL:
            visible = visible & (tl.load(place, mask=visible, other=0) != 0)
        else:
            added = tl.load(place, mask=visible, other=0.0).to(tl.float32)
            scores += added
            visible = visible & (added > _HIDDEN)
    return scores, visible


@triton.jit
def row_normalisers(
    query, query_sample, query_head, query_row, key, key_sample, key_head, key_row, rows, valid,
    mask, mask_sample, mask_row, mask_key, normaliser, groups, group_heads, n_rows, n_keys, held, width,
    scaling, softcap, keys_per_split,
    MASK: tl.constexpr, CAPPED: tl.constexpr, WIDEN: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of a tile of rows over one part of the keys, to ``normaliser`` (B, groups, heads · rows, splits)."""
    first, split, pair = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    sample, group = pair // groups, pair % groups
    query += sample * query_sample + group * group_heads * query_head
    key += sample * key_sample + group * key_head
    q, position, asked = tile_of_rows(
        query, group_heads, query_head, query_row, width, rows + sample * n_rows, n_rows, first, ROWS, COLUMNS
    )
    stop = tl.minimum((split + 1) * keys_per_split, n_keys)
    if MASK == CAUSAL:
        stop = tl.minimum(stop, held + tl.max(position, 0) + 1)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for begin in range(split * keys_per_split, stop, KEYS):
        scores, visible = tile_of_scores(
            q, position, asked, key, key_row, width, begin + tl.arange(0, KEYS), n_keys, held, valid + sample * n_keys,
            mask + sample * mask_sample, mask_row, mask_key, scaling, softcap, MASK, CAPPED, WIDEN, COLUMNS,
        )  # fmt: skip
        higher = tl.maximum(peak, tl.max(tl.where(visible, scores, float("-inf")), 1))
        level = tl.where(higher > float("-inf"), higher, 0.0)
        part = tl.sum(tl.where(visible, tl.exp(scores - level[:, None]), 0.0), 1)
        total = total * tl.exp(peak - level) + part
        peak = higher
    some = total > 0
    result = tl.where(some, peak + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    m = first + tl.arange(0, ROWS)
    place = (pair * group_heads * n_rows + m) * tl.num_programs(1) + split
    tl.store(normaliser + place, result, mask=m < group_heads * n_rows)


@triton.jit
def column_sums(
    query, query_sample, query_head, query_row, key, key_sample, key_head, key_row, rows, valid,
    mask, mask_sample, mask_row, mask_key, normaliser, asked_rows, received,
    groups, group_heads, n_rows, n_keys, held, width, scaling, softcap,
    PER_VIEWER: tl.constexpr, MASK: tl.constexpr, CAPPED: tl.constexpr, WIDEN: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What a tile of keys of one sample receives from all rows and heads, to ``received`` (B, keys).

    ``normaliser`` (B, groups, heads · rows); ``asked_rows`` (B,) int64, how many of ``rows`` (B, rows) are asked.
    """
    start, sample = tl.program_id(0) * KEYS, tl.program_id(1).to(tl.int64)
    n = start + tl.arange(0, KEYS)
    total, seen = tl.zeros((KEYS,), tl.float32), tl.zeros((KEYS,), tl.float32)
    query += sample * query_sample
    key += sample * key_sample
    normaliser += sample * groups * group_heads * n_rows
    for _ in range(groups):
        for first in range(0, group_heads * n_rows, ROWS):
            q, position, asked = tile_of_rows(
                query, group_heads, query_head, query_row, width, rows + sample * n_rows, n_rows, first, ROWS,
                COLUMNS,
            )  # fmt: skip
            if (MASK != CAUSAL) | (held + tl.max(position, 0) >= start):
                scores, visible = tile_of_scores(
                    q, position, asked, key, key_row, width, n, n_keys, held, valid + sample * n_keys,
                    mask + sample * mask_sample, mask_row, mask_key, scaling, softcap, MASK, CAPPED, WIDEN, COLUMNS,
                )  # fmt: skip
                level = tl.load(normaliser + first + tl.arange(0, ROWS), mask=asked, other=0.0)
                level = tl.where(level > float("-inf"), level, 0.0)
                total += tl.sum(tl.where(visible, tl.exp(scores - level[:, None]), 0.0), 0)
                seen += tl.sum(visible.to(tl.float32), 0)
        query += group_heads * query_head
        key += key_head
        normaliser += group_heads * n_rows
    heads = groups * group_heads
    divisor = seen / heads if PER_VIEWER else tl.load(asked_rows + sample)
    tl.store(received + sample * n_keys + n, total / heads / tl.maximum(divisor, 1.0), mask=n < n_keys)


INTERPRETED = not isinstance(column_sums, triton.JITFunction)
"""Whether Triton's interpreter runs the kernels, which it does where TRITON_INTERPRET=1 was set when this was
imported."""


def attention_received(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    valid: Tensor,
    scaling: float,
    *,
    mask: Tensor | None = None,
    per_viewer: bool = False,
    softcap: float | None = None,
) -> Tensor:
    """:func:`framefusion.reduction.relevance.attention_received`, with the same arguments and result."""
    (batch, heads, length, width), (groups, keys) = query.shape, key.shape[1:3]
    group_heads, n_rows = heads // groups, rows.shape[1]
    received = torch.zeros(batch, keys, dtype=torch.float32, device=query.device)
    if received.numel() == 0 or n_rows == 0:
        return received
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    rows, valid = rows.contiguous(), valid.contiguous()
    half = query.dtype == key.dtype and query.dtype in (torch.float16, torch.bfloat16) and not INTERPRETED
    options: dict[str, Any] = tile_options(query.dtype if half else torch.float32, width, group_heads * n_rows)
    kind, own, strides = _mask_arguments(mask, batch, valid)
    source = (query, *query.stride()[:3], key, *key.stride()[:3], rows, valid, own, *strides)
    sizes = (groups, group_heads, n_rows, keys, keys - length, width, scaling, softcap or 0.0)
    flags = {"MASK": kind, "CAPPED": softcap is not None, "WIDEN": not half, **options}
    tiles = triton.cdiv(group_heads * n_rows, options["ROWS"])
    key_tiles = triton.cdiv(keys, options["KEYS"])
    per_split = triton.cdiv(key_tiles, max(1, min(key_tiles, PROGRAMS // (tiles * batch * groups))))
    splits = triton.cdiv(key_tiles, per_split)
    normaliser = torch.empty(batch, groups, group_heads * n_rows, splits, dtype=torch.float32, device=query.device)
    with torch.cuda.device_of(query):
        row_normalisers[(tiles, splits, batch * groups)](
            *source, normaliser, *sizes, per_split * options["KEYS"], **flags
        )
        normaliser = normaliser.logsumexp(-1)
        asked_rows = (rows >= 0).sum(1)
        column_sums[(key_tiles, batch)](
            *source, normaliser, asked_rows, received, *sizes, PER_VIEWER=per_viewer, **flags
        )
    return received


def _mask_arguments(mask: Tensor | None, batch: int, valid: Tensor) -> tuple[int, Tensor, tuple[int, ...]]:
    """Kind, tensor and strides of the layer's own mask; any tensor where there is none."""
    if mask is None:
        return CAUSAL.value, valid, (0, 0, 0)
    own = mask[:, 0].expand(batch, -1, -1)
    return (BOOL if mask.dtype == torch.bool else ADDED).value, own, own.stride()
