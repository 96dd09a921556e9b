"""Ours: segment-wise DPP, at four places of the decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from framefusion.methods.method import Method, behind_attention, cascade_cost, one_stage, two_stages
from framefusion.settings import FrameFusion

RULE: dict[str, Any] = {
    "segmentation": "frame-similarity",
    "budget_rule": "uniform",
    "relevance": "last",
    "relevance_sign": 1,
    "selector": "dpp",
}
"""Spelt out, so that the methods stay what they are when a default changes."""


def _inside(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=behind_attention(budget, layers), merge=False, **RULE)


def _input(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=one_stage(budget, layers, 0), merge=False, **{**RULE, "relevance": "none"})


STAGED_RULE: dict[str, Any] = {**RULE, "relevance": "similarity", "dropped": "merge"}
"""By the leaderboard's ablations: merging what is dropped pays, and so does similarity to the question; attention does
not choose better than diversity alone."""


def staged(part: float, ratio: float) -> Callable[[float, int], FrameFusion]:
    """``build`` with a stage before layer 0 and a second one.

    Args:
        part: share of the layers before the second stage, in (0, 1).
        ratio: share of the first stage's tokens that the second keeps, in (0, 1].
    """

    def build(budget: float, layers: int) -> FrameFusion:
        keep = two_stages(budget, layers, round(part * layers), ratio)
        return FrameFusion(keep=keep, merge=False, **STAGED_RULE)

    return build


def _cascade(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(cost=cascade_cost(budget, layers), merge=True, **RULE)


CITATION = "arXiv 2604.01881 (segments), 1709.05135 (greedy MAP)"

INSIDE = Method(
    name="segment-dpp",
    title="Segment DPP",
    kind="ours",
    citation=CITATION,
    description="Segment-wise DPP of attention and diversity, before layer 2 of 28.",
    build=_inside,
)
INPUT = Method(
    name="segment-dpp-input",
    title="Segment DPP, at the input",
    kind="ours",
    citation=CITATION,
    description="Segment-wise DPP of diversity alone, before layer 0.",
    build=_input,
)
STAGED = Method(
    name="segment-dpp-staged",
    title="Segment DPP, two stages",
    kind="ours",
    citation=CITATION,
    description="Diversity and similarity to the question, before layer 0 and two thirds of the way; the rest merges.",
    build=staged(2 / 3, 1 / 3),
)
CASCADE = Method(
    name="segment-dpp-cascade",
    title="Segment DPP after merging",
    kind="ours",
    citation=CITATION + ", 2501.01986 (merging)",
    description="Similar tokens of consecutive frames merge in the first layers, then segment-wise DPP.",
    build=_cascade,
)

METHODS = (INSIDE, INPUT, STAGED, CASCADE)
