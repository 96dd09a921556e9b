"""FastVID: density-based merging in dynamic segments."""

from __future__ import annotations

from collections.abc import Callable

from framefusion.evaluation.methods.method import PLAIN, Method, one_stage
from framefusion.reduction.segmentation import DySeg
from framefusion.reduction.settings import FrameFusion

RULE = {**PLAIN, "segmentation": DySeg(threshold=0.9, minimum=8), "relevance": "encoder", "selector": "fastvid"}
QWEN_RULE = {**RULE, "segmentation": DySeg(threshold=0.84, minimum=8)}


def _with(rule: dict[str, object]) -> Callable[[float, int], FrameFusion]:
    def build(budget: float, layers: int) -> FrameFusion:
        return FrameFusion(keep=one_stage(budget, layers, 0), **rule)  # type: ignore[arg-type]

    return build


METHOD = Method(
    name="fastvid",
    title="FastVID",
    kind="published",
    citation="arXiv 2503.11187",
    description=(
        "In DySeg segments the tokens that the vision encoder attends to most, and density peaks of anchor frames, "
        "which take in the rest; before layer 0."
    ),
    build=_with(RULE),
    rule=RULE,
)
QWEN = Method(
    name="fastvid-qwen",
    title="FastVID (settings for Qwen)",
    kind="published",
    citation="arXiv 2503.11187",
    description="FastVID with the threshold of segments that its authors use with Qwen2.5-VL.",
    build=_with(QWEN_RULE),
    rule=QWEN_RULE,
)
METHODS = (METHOD, QWEN)
