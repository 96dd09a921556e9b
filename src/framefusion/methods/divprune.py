"""DivPrune: max–min diversity."""

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
        selector="divprune",
    )


METHOD = Method(
    name="divprune",
    title="DivPrune",
    kind="published",
    citation="arXiv 2503.02175",
    description="Max–min diversity over the whole video, before layer 0.",
    build=_build,
)
