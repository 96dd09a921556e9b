"""One thing changed in a method, everything else equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from framefusion.errors import ArgumentError
from framefusion.evaluation.methods import fastv, fastvid, hieravid, holitom
from framefusion.evaluation.methods.method import COSINES, Method, behind_attention
from framefusion.evaluation.methods.segment_dpp import (
    CASCADE,
    INPUT,
    INSIDE,
    PYRAMID,
    PYRAMID_STAGES,
    TWO_STAGE,
)
from framefusion.reduction.merging import Absorb
from framefusion.reduction.selectors.dpp import DPPOnce
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.sources import Relevance


def variant(base: Method, suffix: str, **changes: Any) -> Method:
    """A method with other settings at the same budget.

    Args:
        base: the method to change.
        suffix: what the name adds, after a colon.
        changes: fields, or flat names, of :class:`framefusion.FrameFusion`; not ``cost`` or ``keep``, which are the
            budget.

    Raises:
        ValueError: a change would touch the budget.
    """
    if not changes or changes.keys() & {"cost", "keep"}:
        raise ArgumentError(f"changes must name fields of FrameFusion other than cost and keep, got {sorted(changes)}.")

    def build(budget: float, layers: int) -> FrameFusion:
        return replace(base.build(budget, layers), **_changes(base.build(budget, layers).relevance))

    def _changes(now: Relevance | str) -> dict[str, Any]:
        # A source by its name alone weighs as the one before.
        if "relevance" not in changes or isinstance(now, str):
            return changes
        return {**changes, "relevance": replace(now, source=changes["relevance"])}

    listed = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    rule = None
    if base.rule is not None:
        rule = {**base.rule, **_changes(base.rule["relevance"])}
        rule.pop("stages", None)
    return replace(_ablation(base, suffix, f"{base.name} with {listed}.", build), rule=rule)


def _ablation(base: Method, suffix: str, description: str, build: Callable[[float, int], FrameFusion]) -> Method:
    name, title = f"{base.name}:{suffix}", f"{base.title}: {suffix}"
    return replace(base, name=name, title=title, kind="ablation", description=description, build=build)


def _fastvid_inside(budget: float, layers: int) -> FrameFusion:
    keep = behind_attention(budget, layers)
    return replace(fastvid.METHOD.build(budget, layers), keep=keep, relevance=Relevance("last"))


PLANS = {
    "one-stage": ((0.0, 1.0),),
    "two-stages": ((0.0, 1.0), (2 / 3, 0.1)),
    "early": ((0.0, 1.0), (1 / 3, 0.05)),
    "halves": ((0.0, 1.0), (1 / 3, 0.5), (2 / 3, 0.25)),
    "four-stages": ((0.0, 1.0), (1 / 6, 0.7), (1 / 3, 0.5), (2 / 3, 0.05)),
}
"""Other stages for the pyramid."""

LATER = {
    "one-stage": ((0.0, 1.0),),
    "three-stages": PYRAMID_STAGES,
    "half-way": ((0.0, 1.0), (1 / 2, 0.25)),
    "later": ((0.0, 1.0), (3 / 4, 0.25)),
    "fewer-late": ((0.0, 1.0), (2 / 3, 0.05)),
    "more-late": ((0.0, 1.0), (2 / 3, 0.5)),
}
"""Other stages for the two stages of the defaults."""


def _all() -> Iterator[Method]:
    for base in (INSIDE, INPUT, PYRAMID):
        for segmentation in ("windows", "single", "dyseg", "dp", "frames"):
            if (base, segmentation) != (INSIDE, "single"):  # that is CDPruner
                yield variant(base, segmentation, segmentation=segmentation)
        for rule in ("marginal-value", "joint"):
            yield variant(base, rule, budget_rule=rule)
    for base in (INSIDE, INPUT):
        yield variant(base, "merge-dropped", dropped=Absorb(0.6))
    for base in (INPUT, PYRAMID):
        yield variant(base, "gaussian", gamma=1.0)
    yield from _of_two_stages()
    yield variant(PYRAMID, "drop", dropped="drop")
    yield variant(PYRAMID, "once", selector=DPPOnce(**COSINES))
    yield variant(INSIDE, "no-relevance", relevance="none")
    yield variant(INSIDE, "least-attended", relevance_sign=-1)
    yield variant(PYRAMID, "similarity-1", relevance="similarity", relevance_exponent=1.0)
    for base, sources in (
        (INSIDE, ("text", "all-viewers", "similarity")),
        (PYRAMID, ("similarity", "last", "text", "all-viewers")),
    ):
        for relevance in sources:
            yield variant(base, relevance, relevance=relevance)
            yield variant(base, f"least-{relevance}", relevance=relevance, relevance_sign=-1)
    yield variant(INPUT, "similarity", relevance="similarity")
    yield variant(INPUT, "least-similarity", relevance="similarity", relevance_sign=-1)
    for name, stages in PLANS.items():
        yield variant(PYRAMID, name, stages=stages)
    yield variant(CASCADE, "joint", budget_rule="joint")
    yield variant(fastv.METHOD, "least-attended", relevance_sign=-1)
    yield variant(hieravid.METHOD, "least-attended", relevance_sign=-1)
    for relevance in ("text", "all-viewers"):
        yield variant(fastv.METHOD, relevance, relevance=relevance)
    yield variant(fastvid.METHOD, "density", relevance="none")
    told = "fastvid before layer 2 of 28, with the last token's attention for its salient tokens."
    inside = _ablation(fastvid.METHOD, "attention", told, _fastvid_inside)
    yield replace(inside, rule={**fastvid.RULE, "relevance": "last"})
    yield variant(holitom.METHOD, "density", relevance="last")


def _of_two_stages() -> Iterator[Method]:
    for segmentation in ("windows", "single", "dyseg", "frame-similarity", "frames"):
        yield variant(TWO_STAGE, segmentation, segmentation=segmentation)
    yield variant(TWO_STAGE, "program-alone", segment_sudden=None)
    yield variant(TWO_STAGE, "uniform", budget_rule="uniform")
    yield variant(TWO_STAGE, "all-frames", later_frames=1.0)
    yield variant(TWO_STAGE, "cosine", gamma=None)
    yield variant(TWO_STAGE, "drop", dropped="drop")
    yield variant(TWO_STAGE, "merge-more", dropped_lower_bound=0.6)
    for relevance in ("none", "text", "last"):
        yield variant(TWO_STAGE, relevance, relevance=relevance)
    for name, stages in LATER.items():
        yield variant(TWO_STAGE, name, stages=stages)


METHODS = tuple(_all())
