"""Ours: segment-wise DPP, at four places of the decoder."""

from __future__ import annotations

from typing import Any

from framefusion.evaluation.methods.method import COSINES, PLAIN, Method, behind_attention, cascade_cost, one_stage
from framefusion.reduction.merging import Absorb, Merging
from framefusion.reduction.segmentation import DynamicProgramming, FrameSimilarity
from framefusion.reduction.selectors.dpp import DPP
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.sources import Relevance

RULE: dict[str, Any] = {
    **PLAIN,
    "segmentation": FrameSimilarity(threshold=0.4, similarity_lower_bound=0.6),
    "relevance": Relevance("last", sign=1, exponent=1.0),
    "selector": DPP(**COSINES),
}
TWO_STAGE_RULE: dict[str, Any] = {
    **PLAIN,
    "segmentation": DynamicProgramming(threshold=0.8, sudden=4.0),
    "budget_rule": "joint",
    "relevance": Relevance("late-text", sign=1, exponent=1.0),
    "selector": DPP(gamma=1.0, later_frames=0.95),
    "dropped": Absorb(0.9),
}
PYRAMID_STAGES = ((0.0, 1.0), (1 / 3, 0.5), (2 / 3, 0.05))
PYRAMID_RULE: dict[str, Any] = {**RULE, "relevance": Relevance("none", sign=1, exponent=0.25), "dropped": Absorb(0.6)}


def _inside(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=behind_attention(budget, layers), **RULE)


def _input(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=one_stage(budget, layers, 0), **{**RULE, "relevance": "none"})


def _cascade(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(cost=cascade_cost(budget, layers), **{**RULE, "merging": Merging(0.6, 0.1)})


def _pyramid(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(cost=budget, stages=PYRAMID_STAGES, **PYRAMID_RULE)


def _two_stage(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(cost=budget, **TWO_STAGE_RULE)


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
TWO_STAGE = Method(
    name="segment-dpp-two-stage",
    title="Segment DPP, two stages",
    kind="ours",
    citation=CITATION + ", 2505.21334 (segments)",
    description="Segment-wise DPP of diversity before layer 0, and of diversity and the text's attention after two "
    "thirds of the layers, where a quarter stays. The library's defaults.",
    build=_two_stage,
    rule=TWO_STAGE_RULE,
)
PYRAMID = Method(
    name="segment-dpp-pyramid",
    title="Segment DPP, pyramid",
    kind="ours",
    citation=CITATION + ", 2410.17247 (pyramid)",
    description="Segment-wise DPP of diversity alone, before layer 0 and after one and two thirds of the layers; the "
    "rest merges.",
    build=_pyramid,
)
CASCADE = Method(
    name="segment-dpp-cascade",
    title="Segment DPP after merging",
    kind="ours",
    citation=CITATION + ", 2501.01986 (merging)",
    description="Similar tokens of consecutive frames merge in the first layers, then segment-wise DPP.",
    build=_cascade,
)

METHODS = (INSIDE, INPUT, TWO_STAGE, PYRAMID, CASCADE)
