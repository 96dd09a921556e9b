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

from torch import Tensor

from framefusion.selectors import dpp, topk, uniform

Selector = Callable[[Tensor, "Tensor | None", Tensor, Mapping[int, int]], Tensor]

SELECTORS: dict[str, Selector] = {
    "dpp": dpp.select,
    "topk": topk.select,
    "uniform": uniform.select,
}
