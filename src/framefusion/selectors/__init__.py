"""Selectors: the rules that say which tokens stay. One small file each, one registry line each.

A selector is a function of pure tensors: ``select(features, relevance, segments, budgets) -> indices`` with

* ``features``: ``(N, D)``, any float dtype: hidden states of one video's visual tokens, in sequence order;
* ``relevance``: ``(N,)`` float32, positive, or None when there is none;
* ``segments``: ``(N,)`` int64 segment ids, on the CPU (features and relevance are where the model is);
* ``budgets``: ``{segment id: tokens to keep}``, none above the length of its segment;
* returns an int64 tensor of distinct indices, exactly ``budgets[s]`` of each segment, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from framefusion.selectors import dpp, topk, uniform

Selector = Callable[[Tensor, "Tensor | None", Tensor, Mapping[int, int]], Tensor]

SELECTORS: dict[str, Selector] = {
    "dpp": dpp.select,
    "topk": topk.select,
    "uniform": uniform.select,
}


def select(
    name: str, features: Tensor, relevance: Tensor | None, segments: Tensor, budgets: Mapping[int, int]
) -> Tensor:
    """Ask the selector ``name``, and hold it to its contract.

    Returns:
        int64 indices on the CPU.

    Raises:
        ValueError: the selector returned something else than it was asked for.
    """
    chosen = SELECTORS[name](features, relevance, segments, budgets)
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.int64 or chosen.ndim != 1:
        what = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
        raise ValueError(f"selector {name!r} returned {what}; it must return a one-dimensional int64 tensor.")
    chosen = chosen.cpu()
    if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(segments)):
        raise ValueError(f"selector {name!r} returned an index outside 0 … {len(segments) - 1}.")
    distinct = chosen.unique()
    got = {
        int(segment): int(count) for segment, count in zip(*segments[distinct].unique(return_counts=True), strict=True)
    }
    for segment, count in budgets.items():
        if got.get(segment, 0) != count or len(distinct) != len(chosen):
            raise ValueError(
                f"selector {name!r} returned {got.get(segment, 0)} distinct tokens of segment {segment}, asked for "
                f"{count} ({len(chosen)} indices in all, {len(distinct)} of them distinct)."
            )
    return chosen


def register_selector(name: str, select: Selector) -> None:
    """Add a selection rule of your own: ``FrameFusion(selector=name)`` uses it from now on.

    Args:
        name: an identifier.
        select: a function of pure tensors; see this module for its contract. What it returns is checked in use: a
            wrong number of tokens, of any segment, is an error.

    Raises:
        TypeError: ``select`` cannot be called.
        ValueError: the name is no identifier, or is taken.
    """
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise ValueError(f"name must be an identifier such as 'my-rule', got {name!r}.")
    if not callable(select):
        raise TypeError(
            f"select must be a function select(features, relevance, segments, budgets), got {type(select).__name__}."
        )
    if name in SELECTORS:
        raise ValueError(f"a selector named {name!r} is registered already; choose another name.")
    SELECTORS[name] = select
