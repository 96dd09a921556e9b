"""VidCom²: uniqueness of frames and tokens."""

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
        selector="vidcom2",
    )


METHOD = Method(
    name="vidcom2",
    title="VidCom²",
    kind="published",
    citation="arXiv 2505.14454",
    description="Frame budgets by the frames' uniqueness, tokens by theirs, before layer 0.",
    build=_build,
)
