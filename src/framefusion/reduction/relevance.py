"""Relevance of visual tokens: the attention they receive, how similar the question is, what changed. Pure tensors."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from framefusion.errors import ArgumentError
from framefusion.reduction.merging import previous_at_same_patch, previous_similarity

SCORE_ENTRIES = 1 << 24
"""Attention scores that are held at once; more query rows are taken in turns."""


HIDDEN = -1e3
"""An added mask hides what it lowers by as much as this; callers write anything from -1e4 to -inf."""


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
    """Attention that every token receives from some query rows, averaged over heads and rows.

    Only the asked rows are computed, :data:`SCORE_ENTRIES` scores at a time: never ``(B, H, N, N)``, and equal to
    the softmax attention of those rows whatever kernel computes the layer itself. On CUDA, where Triton is installed,
    no scores are kept at all: see :mod:`framefusion.reduction.relevance_triton`.

    Args:
        query: ``(B, H, N, d)`` after rotary embedding.
        key: ``(B, H_kv, P + N, d)`` after rotary embedding; ``H`` is a multiple of ``H_kv`` (grouped queries). The
            first ``P`` keys are of earlier turns.
        rows: ``(B, R)`` int64, the query rows; -1 for none (rows of a ragged batch).
        valid: ``(B, P + N)`` bool, False for padding.
        scaling: factor of the scores, normally ``d ** -0.5``.
        mask: the layer's own ``(B or 1, 1, N, P + N)`` mask, bool (True is visible) or added to the scores; None for
            a causal layer, whose query rows see themselves and what is before them.
        per_viewer: divide by the number of rows that can see the token instead of by all rows. A mean over all rows
            favours early tokens of a causal layer, because more rows see them.
        softcap: the layer's cap of the scores, ``softcap * tanh(scores / softcap)``; None without.

    Returns:
        ``(B, P + N)`` float32, float64 for a query of float64. Zero for a sample without rows.
    """
    compute = attention_received_in_torch
    if query.device.type == "cuda" and query.dtype != torch.float64 and find_spec("triton") is not None:
        from framefusion.reduction import relevance_triton

        compute = relevance_triton.attention_received
    return compute(query, key, rows, valid, scaling, mask=mask, per_viewer=per_viewer, softcap=softcap)


def attention_received_in_torch(
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
    """:func:`attention_received` in plain torch, on any device."""
    batch, heads, length, width = query.shape
    groups, held = key.shape[1], key.shape[2] - length
    used = rows >= 0
    index = rows.clamp_min(0)
    wide = torch.promote_types(query.dtype, torch.float32)
    picked = query.gather(2, index[:, None, :, None].expand(-1, heads, -1, width)).to(wide)
    picked = picked.reshape(batch, groups, heads // groups, rows.shape[1], width)
    keys = key.to(wide)
    columns = torch.arange(key.shape[2], device=query.device)
    total = torch.zeros(batch, key.shape[2], dtype=wide, device=query.device)
    viewers = torch.zeros_like(total)
    chunk = max(1, SCORE_ENTRIES // (batch * heads * key.shape[2]))
    for first in range(0, rows.shape[1], chunk):
        part = slice(first, first + chunk)
        scores = torch.einsum("bghrd,bgnd->bghrn", picked[:, :, :, part], keys) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        visible = valid[:, None, :] & used[:, part, None]
        if mask is None:
            visible = visible & (columns <= held + index[:, part, None])
        else:
            own = mask[:, 0].expand(batch, -1, -1)
            own = own.gather(1, index[:, part, None].expand(-1, -1, own.shape[2]))
            if own.dtype == torch.bool:
                visible = visible & own
            else:
                scores = scores + own[:, None, None].to(wide)
                visible = visible & (own > HIDDEN)
        scores = scores.masked_fill(~visible[:, None, None], torch.finfo(scores.dtype).min)
        total += (scores.softmax(-1).mean((1, 2)) * visible).sum(1)
        viewers += visible.sum(1)
    return total / (viewers if per_viewer else used.sum(1, keepdim=True)).clamp_min(1)


def attention_received_from_all(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention that every token of a layer without a mask receives, averaged over heads and queries.

    :data:`SCORE_ENTRIES` scores at a time, whatever kernel computes the layer itself.

    Args:
        query: ``(B, H, N, d)`` after rotary embedding.
        key: ``(B, H, N, d)`` likewise.
        scaling: factor of the scores, normally ``d ** -0.5``.

    Returns:
        ``(B, N)`` float32, float64 for a query of float64; each row sums to 1.
    """
    batch, heads, length, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    keys = key.to(wide).transpose(2, 3)
    total = torch.zeros(batch, length, dtype=wide, device=query.device)
    for rows in query.split(max(1, SCORE_ENTRIES // max(1, batch * heads * length)), dim=2):
        total += ((rows.to(wide) * scaling) @ keys).softmax(-1).mean(1).sum(1)
    return total / max(1, length)


def question_similarity(features: Tensor, question: Tensor) -> Tensor:
    """The largest cosine of each visual token with a token of the question, at the same layer.

    Available before layer 0 too, where no attention exists. CDPruner (arXiv 2506.10967) ranks by the similarity of
    CLIP's image and text features instead, which needs CLIP's text encoder.

    Args:
        features: ``(N, D)``, any float dtype, the visual tokens; computed in float32 (float64 stays float64).
        question: ``(Q, D)``, the text tokens.

    Returns:
        ``(N,)`` in [-1, 1]; 0 for zero vectors, and without a question.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    if not len(question):
        return torch.zeros(len(features), dtype=wide, device=features.device)
    asked = F.normalize(question.to(wide), dim=-1)
    chunk = max(1, SCORE_ENTRIES // (len(asked) + features.shape[1]))
    parts = [(F.normalize(part.to(wide), dim=-1) @ asked.T).amax(1) for part in features.split(chunk)]
    return torch.cat(parts) if parts else features.new_zeros(0, dtype=wide)


def dissimilarity(features: Tensor, frames: Tensor, patches: Tensor) -> Tensor:
    """How much each visual token differs from the one before it at the same place (EVS, arXiv 2510.14624).

    Needs neither attention nor a question, so it is available before layer 0, and in engines that know no question.

    Args:
        features: ``(N, D)``, any float dtype; computed in float32.
        frames: ``(N,)`` int64, the frame of each token.
        patches: ``(N,)`` int64, its place inside the frame, another range for each video.

    Returns:
        ``(N,)`` float32 in [0, 2]: 1 less the cosine with the token before; 1 where there is none.
    """
    previous = previous_at_same_patch(frames, patches).to(features.device)
    return 1 - previous_similarity(features, previous).masked_fill(previous < 0, 0.0)


def min_max(received: Tensor, sign: int = 1, exponent: float = 1.0) -> Tensor:
    """Relevance from attention received, or from similarity, scaled to (0, 1] where not all are equal.

    ``((s - min s + 1e-6) / (max s - min s + 1e-8)) ** t`` with ``s = sign * received`` (CDPruner, arXiv 2506.10967,
    which takes ``sign = -1`` for CLIP scores, and ``t = 1``).

    Args:
        received: ``(N,)``, the visual tokens of one sample; computed in float32 (float64 stays float64, so that scores
            which float32 cannot tell apart keep their order).
        sign: +1 makes the token with the largest value the most relevant, -1 that with the smallest.
        exponent: ``t``, at least 0: how much relevance weighs against diversity; 0 makes all tokens equal.

    Returns:
        ``(N,)`` positive; the largest is 1 but for rounding, or all are equal if every score is.
    """
    if sign not in (1, -1):
        raise ArgumentError(f"sign must be +1 or -1, got {sign}.")
    s = sign * received.to(torch.promote_types(received.dtype, torch.float32))
    if s.numel() == 0:
        return s
    low, high = s.min(), s.max()
    return ((s - low + 1e-6) / (high - low + 1e-8)) ** exponent


def query_rows(visual: Tensor, valid: Tensor, which: str) -> Tensor:
    """The query rows whose attention counts.

    Args:
        visual: ``(B, N)`` bool, True for visual tokens.
        valid: ``(B, N)`` bool, False for padding.
        which: ``"last"`` (the last token of each sample), ``"text"`` (the text tokens after the last visual
            token, which therefore see all of them; the last token where there is none) or ``"all"`` (every token).

    Returns:
        ``(B, R)`` int64, right-aligned, padded with -1 on the left.
    """
    columns = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    last = torch.where(valid, columns, -1).amax(1, keepdim=True)
    if which == "last":
        return last
    if which == "text":
        last_visual = torch.where(visual & valid, columns, -1).amax(1, keepdim=True)
        rows = torch.where(valid & (columns > last_visual), columns, -1).sort(1).values
        rows[:, -1:] = torch.maximum(rows[:, -1:], last)
    elif which == "all":
        rows = torch.where(valid, columns, -1).sort(1).values
    else:
        raise ArgumentError(f"which must be 'last', 'text' or 'all', got {which!r}.")
    return rows[:, int((rows < 0).sum(1).min()) :]
