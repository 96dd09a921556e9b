"""The selection as PyTorch operators, so that ``torch.compile`` and ``torch.export`` trace it without a graph break.

The public functions call these where they are traced, and only there. How many tokens come out is part of the graph
where the budgets alone decide it, and a size known when it runs otherwise (segments of unknown length, early stops).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, ArgumentTypeError
from framefusion.selection.plan import Segment, make_segment


@torch.library.custom_op("framefusion::select_tokens", mutates_args=())
def select_tokens(
    features: Tensor,
    relevance: Tensor | None,
    segments: Tensor | None,
    form: str,
    ids: list[int],
    counts: list[int],
    sizes: list[int],
    backend: str,
    exhausted: str,
    check_finite: bool | None,
    joint: bool,
    novelty_lower_bound: float,
    at_least: int,
    gamma: float | None,
    return_gains: bool,
) -> list[Tensor]:
    """:func:`framefusion.select_tokens`; budgets as :func:`encode_budgets` writes them.

    Returns:
        For each sample the (K,) int64 tokens it keeps; with ``return_gains`` then the (K,) float64 gains of each.
    """
    from framefusion.selection import api

    result: Any = api.select_tokens(
        features,
        relevance,
        segments,
        decode_budgets(form, ids, counts, sizes),
        backend=backend,
        exhausted=exhausted,
        check_finite=check_finite,
        joint=joint,
        novelty_lower_bound=novelty_lower_bound,
        at_least=at_least,
        gamma=gamma,
        return_gains=return_gains,  # type: ignore[call-overload]
    )
    kept, gains = result if return_gains else (result, [])
    if features.dim() == 2:
        return [kept, gains] if return_gains else [kept]
    return [*kept, *gains]


@select_tokens.register_fake
def _(
    features: Tensor,
    relevance: Tensor | None,
    segments: Tensor | None,
    form: str,
    ids: list[int],
    counts: list[int],
    sizes: list[int],
    backend: str,
    exhausted: str,
    check_finite: bool | None,
    joint: bool,
    novelty_lower_bound: float,
    at_least: int,
    gamma: float | None,
    return_gains: bool,
) -> list[Tensor]:
    samples = features.shape[0] if features.dim() == 3 else 1
    certain = segments is None and form != "mapping" and exhausted != "stop" and novelty_lower_bound == 0
    kept = []
    for b in range(samples):
        first = sum(sizes[:b]) if sizes else 0
        own = counts[first : first + sizes[b]] if sizes else counts
        if certain:
            size: Any = min(max(sum(own), 0), features.shape[-2])
        else:
            size = torch.library.get_ctx().new_dynamic_size(min=0)
        kept.append(features.new_empty(size, dtype=torch.int64))
    gains = [torch.empty_like(k, dtype=torch.float64) for k in kept] if return_gains else []
    return [*kept, *gains]


@torch.library.custom_op("framefusion::select_in_segments", mutates_args=())
def select_in_segments(
    features: Tensor,
    relevance: Tensor | None,
    rows: Tensor,
    lengths: list[int],
    counts: list[int],
    backend: str,
    exhausted: str,
    check_finite: bool | None,
    gamma: float | None,
) -> Tensor:
    """:func:`framefusion.selection.select_in_segments`; ``rows`` (R,) holds the segments' one after the other."""
    from framefusion.selection import api

    parts = zip(rows.split(lengths), counts, strict=True)
    segments = [make_segment(i, part, count) for i, (part, count) in enumerate(parts)]
    return api.select_in_segments(
        features, relevance, segments, backend=backend, exhausted=exhausted, check_finite=check_finite, gamma=gamma
    )


@select_in_segments.register_fake
def _(
    features: Tensor,
    relevance: Tensor | None,
    rows: Tensor,
    lengths: list[int],
    counts: list[int],
    backend: str,
    exhausted: str,
    check_finite: bool | None,
    gamma: float | None,
) -> Tensor:
    size: Any = sum(counts)
    if exhausted == "stop":
        size = torch.library.get_ctx().new_dynamic_size(min=0)
    return features.new_empty(size, dtype=torch.int64)


@torch.library.custom_op("framefusion::greedy_map", mutates_args=())
def greedy_map(kernel: Tensor, k: int, exhausted: str, backend: str) -> Tensor:
    """:func:`framefusion.selection.greedy_map`."""
    from framefusion.selection import api

    return api.greedy_map(kernel, k, exhausted=exhausted, backend=backend)


@greedy_map.register_fake
def _(kernel: Tensor, k: int, exhausted: str, backend: str) -> Tensor:
    size: Any = min(k, kernel.shape[0])
    if exhausted == "stop":
        size = torch.library.get_ctx().new_dynamic_size(min=0)
    return kernel.new_empty(size, dtype=torch.int64)


def encode_budgets(budgets: Any) -> tuple[str, list[int], list[int], list[int]]:
    """Budgets as an operator takes them.

    Returns:
        "total", "mapping" or "sequence"; the segment ids of mappings; the counts; and if each sample has budgets of its
        own, how many of those are each sample's.
    """
    if budgets is None:
        raise ArgumentTypeError("budgets is required: a mapping, a sequence or an integer")
    if isinstance(budgets, bool):
        raise ArgumentTypeError(f"budgets must be a mapping, a sequence or an integer, got {budgets}")
    if hasattr(budgets, "tolist"):
        # Their values decide sizes; reading them is a graph break.
        budgets = budgets.tolist()
    if isinstance(budgets, int):
        return "total", [], [budgets], []
    if isinstance(budgets, Mapping):
        return "mapping", list(budgets.keys()), list(budgets.values()), []
    if len(budgets) and not isinstance(budgets[0], int):
        parts = [encode_budgets(own) for own in budgets]
        if len({part[0] for part in parts}) > 1:
            raise ArgumentError("budgets of the samples must be all mappings or all sequences where the call is traced")
        ids = [i for part in parts for i in part[1]]
        return parts[0][0], ids, [n for part in parts for n in part[2]], [len(part[2]) for part in parts]
    return "sequence", [], list(budgets), []


def decode_budgets(form: str, ids: list[int], counts: list[int], sizes: list[int]) -> Any:
    """What :func:`encode_budgets` was given."""
    if sizes:
        samples, first = [], 0
        for size in sizes:
            part = slice(first, first + size)
            samples.append(decode_budgets(form, ids[part], counts[part], []))
            first += size
        return samples
    if form == "total":
        return counts[0]
    return dict(zip(ids, counts, strict=True)) if form == "mapping" else counts


def traced_select_tokens(
    features: Tensor, relevance: Tensor | None, segments: Any, budgets: Any, return_gains: bool, **choices: Any
) -> Any:
    """What :func:`framefusion.select_tokens` does while it is traced."""
    if segments is not None and not isinstance(segments, Tensor):
        segments = torch.as_tensor(segments, dtype=torch.int64, device="cpu")
    budget = encode_budgets(budgets)
    result = select_tokens(features, relevance, segments, *budget, return_gains=return_gains, **choices)
    if features.dim() == 2:
        return tuple(result) if return_gains else result[0]
    samples = features.shape[0]
    return (result[:samples], result[samples:]) if return_gains else result


def traced_select_in_segments(
    features: Tensor, relevance: Tensor | None, segments: Sequence[Segment], **choices: Any
) -> Tensor:
    """What :func:`framefusion.selection.select_in_segments` does while it is traced."""
    rows = torch.cat([torch.empty(0, dtype=torch.int64, device="cpu"), *[s.rows for s in segments]])
    lengths, counts = [s.rows.shape[0] for s in segments], [s.count for s in segments]
    return select_in_segments(features, relevance, rows, lengths, counts, **choices)
