"""FrameFusion: merge similar tokens of consecutive frames, then attention top-k."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, cascade_cost
from framefusion.reduction.merging import Merging
from framefusion.reduction.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    rule = {**PLAIN, "merging": Merging(0.6, 0.1), "relevance": "last", "selector": "topk"}
    return FrameFusion(cost=cascade_cost(budget, layers), **rule)


METHOD = Method(
    name="framefusion",
    title="FrameFusion",
    kind="published",
    citation="arXiv 2501.01986",
    description="Similar tokens of consecutive frames merge in the first layers, then the most attended ones stay.",
    build=_build,
)
