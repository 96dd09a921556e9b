"""FrameFusion: merge similar tokens of consecutive frames, then attention top-k."""

from __future__ import annotations

from framefusion.methods.method import Method, cascade_cost
from framefusion.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(
        cost=cascade_cost(budget, layers),
        merge=True,
        similarity_lower_bound=0.6,
        ratio_lower_bound=0.1,
        segmentation="single",
        budget_rule="uniform",
        relevance="last",
        relevance_sign=1,
        selector="topk",
    )


METHOD = Method(
    name="framefusion",
    title="FrameFusion",
    kind="published",
    citation="arXiv 2501.01986",
    description="Similar tokens of consecutive frames merge in the first layers, then the most attended ones stay.",
    build=_build,
)
