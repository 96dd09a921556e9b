"""Efficient Video Sampling: frame dissimilarity."""

from __future__ import annotations

from framefusion.methods.method import Method, one_stage
from framefusion.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(
        keep=one_stage(budget, layers, 0),
        merge=False,
        segmentation="single",
        budget_rule="uniform",
        relevance="none",
        selector="evs",
    )


METHOD = Method(
    name="evs",
    title="EVS",
    kind="published",
    citation="arXiv 2510.14624",
    description="The tokens least like the same patch of the frame before, before layer 0; the rule that vLLM ships.",
    build=_build,
)
