"""The selection as PyTorch operators, so that ``torch.compile`` and ``torch.export`` trace it without a graph break.

The public functions call these where they are traced, and only there. How many tokens come out is part of the graph
where the budgets alone decide it, and a size known when it runs otherwise (segments of unknown length, early stops).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, ArgumentTypeError
from framefusion.selection import dispatch
from framefusion.selection.problem import Choices

_SCHEMA = """(
    Tensor features, Tensor? relevance, Tensor? segments, str form, SymInt[] ids, SymInt[] counts, SymInt[] sizes,
    str backend, str exhausted, bool? check_finite, bool joint, float novelty_lower_bound, SymInt at_least,
    float? gamma, bool return_gains
) -> Tensor[]"""
"""Tensors, budgets as :func:`encode_budgets` writes them, :class:`Choices`, and whether gains are wanted."""


@torch.library.custom_op("framefusion::select_tokens", mutates_args=(), schema=_SCHEMA)
def select_tokens(
    features: Tensor, relevance: Tensor | None, segments: Tensor | None, form: str, *rest: Any
) -> list[Tensor]:
    """:func:`framefusion.select_tokens`.

    Returns:
        For each sample the (K,) int64 tokens it keeps; with ``return_gains`` then the (K,) float64 gains of each.
    """
    *budget, choices, return_gains = *rest[:3], Choices(*rest[3:-1]), rest[-1]
    budgets = decode_budgets(form, *budget)
    kept, gains = dispatch.select_tokens(features, relevance, segments, budgets, choices, return_gains)
    return [*kept, *gains]


@select_tokens.register_fake
def _(features: Tensor, relevance: Tensor | None, segments: Tensor | None, form: str, *rest: Any) -> list[Tensor]:
    _, counts, sizes, choices, return_gains = *rest[:3], Choices(*rest[3:-1]), rest[-1]
    samples = features.shape[0] if features.dim() == 3 else 1
    exact = choices.exhausted != "stop" and choices.novelty_lower_bound == 0
    certain = segments is None and form != "mapping" and exact
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


@torch.library.custom_op("framefusion::greedy_map", mutates_args=())
def greedy_map(kernel: Tensor, k: int, exhausted: str, backend: str) -> Tensor:
    """:func:`framefusion.selection.greedy_map`."""
    return dispatch.greedy_map(kernel, k, exhausted, backend)


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
    features: Tensor, relevance: Tensor | None, segments: Any, budgets: Any, choices: Choices, return_gains: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`dispatch.select_tokens` while it is traced."""
    if segments is not None and not isinstance(segments, Tensor):
        segments = torch.as_tensor(segments, dtype=torch.int64, device="cpu")
    result = select_tokens(features, relevance, segments, *encode_budgets(budgets), *choices, return_gains)
    samples = features.shape[0] if features.dim() == 3 else 1
    return result[:samples], result[samples:]
