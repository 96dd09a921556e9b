"""FastV: attention top-k after the first layers."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, behind_attention
from framefusion.reduction.settings import FrameFusion

RULE = {**PLAIN, "relevance": "last", "selector": "topk"}


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=behind_attention(budget, layers), **RULE)


METHOD = Method(
    name="fastv",
    title="FastV",
    kind="published",
    citation="arXiv 2403.06764",
    description="The tokens that the last token attends to most, before layer 2 of 28.",
    build=_build,
    rule=RULE,
)
