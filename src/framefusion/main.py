"""The names that code written for the published system imports: same signatures, same results, without its
defects.

New code calls :func:`framefusion.select_tokens` and :func:`framefusion.attach`.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from framefusion.bench.compat import benchmark_dpp_pruning
from framefusion.errors import ArgumentError
from framefusion.reduction.relevance import min_max
from framefusion.reduction.settings import FrameFusion
from framefusion.selection import greedy_map, select_tokens

__all__ = ["FrameFusion", "_dpp_sampling_fast", "benchmark_dpp_pruning", "global_cdpruner_segment_prune"]

logger = logging.getLogger(__name__)


def global_cdpruner_segment_prune(
    segment_keep_info: Iterable[tuple[int, int, int, int]],
    segment_mask: Tensor,
    image_features: Tensor,
    last_layer_attention_avg_image: Tensor,
    topk_image_token_num: int,
    *,
    relevance_sign: int = -1,
) -> Tensor:
    """Select visual tokens segment by segment, as the published system's function of this name.

    Relevance is the min–max scaled ``relevance_sign · attention``. The published code uses −1, which ranks
    the least attended tokens first.

    Args:
        segment_keep_info: (segment id, start index, token count, tokens to keep) for each segment. The
            segments' tokens come from ``segment_mask``; start index and token count are not used.
        segment_mask: (L,) integer segment id of each sequence position, −1 for text.
        image_features: (1, N, D) float features of the visual tokens alone, in sequence order.
        last_layer_attention_avg_image: (1, N) float, attention that each visual token received.
        topk_image_token_num: total to keep; not used, the counts come from ``segment_keep_info``.
        relevance_sign: −1 as published; +1 ranks the most attended tokens first.

    Returns:
        (Σ min(keep, segment length),) int64 indices into the N visual tokens: greedy order within a segment,
        segments in the given order. Their sequence positions, also where text stands between the frames, are
        ``(segment_mask != -1).nonzero().flatten()[indices]``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range, or holds NaN or Inf.
    """
    features, attention = _single_sample(image_features, last_layer_attention_avg_image)
    if not isinstance(segment_mask, Tensor) or segment_mask.dim() != 1:
        raise ArgumentError("segment_mask must be a tensor of shape (L,), one segment id per sequence position")
    ids = segment_mask[segment_mask != -1]
    if bool((ids < 0).any()):
        raise ArgumentError(f"segment_mask must be >= -1, got {int(ids.min())}; -1 marks text")
    if len(ids) != len(features):
        raise ArgumentError(
            f"segment_mask marks {len(ids)} visual tokens (entries other than -1), image_features has {len(features)}"
        )
    if relevance_sign not in (1, -1):
        raise ArgumentError(f"relevance_sign must be +1 or -1, got {relevance_sign!r}")
    position = (~torch.isfinite(attention)).nonzero()
    if len(position):
        i = int(position[0])
        raise ArgumentError(
            f"last_layer_attention_avg_image must be finite, got {attention[i].item()} at position (0, {i})"
        )
    budgets = _budgets(segment_keep_info)
    if logger.isEnabledFor(logging.DEBUG):
        for segment, keep in budgets.items():
            n = int((ids == segment).sum())
            logger.debug("Segment %d: %d tokens → %d retained (%d×%d matrix)", segment, n, min(keep, n), n, n)
    kept = select_tokens(features, min_max(attention, relevance_sign), ids, budgets)
    assert isinstance(kept, Tensor)
    return kept


def _single_sample(features: Any, attention: Any) -> tuple[Tensor, Tensor]:
    """(1, N, D) features and (1, N) attention without their batch dimension."""
    if not isinstance(features, Tensor) or features.dim() != 3:
        raise ArgumentError("image_features must be a tensor of shape (1, N, D)")
    if features.shape[0] != 1:
        raise ArgumentError(
            f"image_features must hold one sample, got a batch of {features.shape[0]}; "
            "framefusion.select_tokens takes batches"
        )
    expected = tuple(features.shape[:2])
    if not isinstance(attention, Tensor) or tuple(attention.shape) != expected:
        got = tuple(attention.shape) if isinstance(attention, Tensor) else type(attention).__name__
        raise ArgumentError(f"last_layer_attention_avg_image must be a tensor of shape {expected}, got {got}")
    return features[0], attention[0]


def _budgets(segment_keep_info: Iterable[tuple[int, int, int, int]]) -> dict[int, int]:
    """Tokens to keep by segment id, in the given order."""
    budgets: dict[int, int] = {}
    for i, entry in enumerate(segment_keep_info):
        try:
            segment, _, _, keep = entry
            segment, keep = operator.index(segment), operator.index(keep)
        except (TypeError, ValueError):
            raise ArgumentError(
                f"segment_keep_info[{i}] must be (segment id, start index, token count, tokens to keep), got {entry!r}"
            ) from None
        if segment in budgets:
            raise ArgumentError(f"segment_keep_info[{i}] names segment {segment} a second time")
        if segment < 0 or keep < 0:
            raise ArgumentError(f"segment_keep_info[{i}] must have a segment id and a count >= 0, got {entry!r}")
        budgets[segment] = keep
    return budgets


def _dpp_sampling_fast(kernel: Tensor, k: int, *, exhausted: str = "fill") -> Tensor:
    """Greedy MAP of a determinantal point process with a given kernel;
    :func:`framefusion.selection.greedy_map`.

    Args:
        kernel: (n, n) symmetric positive semidefinite, any float dtype.
        k: tokens to pick.
        exhausted: "fill" returns exactly min(k, n) indices, "stop" fewer when no token adds anything.

    Returns:
        (min(k, n),) int64 in greedy order, on the kernel's device.
    """
    return greedy_map(kernel, k, exhausted=exhausted)
