"""One thing changed in a method, everything else equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from framefusion.methods import fastv, fastvid
from framefusion.methods.method import Method, behind_attention
from framefusion.methods.segment_dpp import CASCADE, INPUT, INSIDE, STAGED, staged
from framefusion.settings import FrameFusion


def variant(base: Method, suffix: str, **changes: Any) -> Method:
    """A method with other settings at the same budget.

    Args:
        base: the method to change.
        suffix: what the name adds, after a colon.
        changes: fields of :class:`framefusion.FrameFusion`; not ``cost`` or ``keep``, which are the budget.

    Raises:
        ValueError: a change would touch the budget.
    """
    if not changes or changes.keys() & {"cost", "keep"}:
        raise ValueError(f"changes must name fields of FrameFusion other than cost and keep, got {sorted(changes)}.")

    # A threshold belongs to its segmentation.
    fresh = {"segment_threshold": None} if "segmentation" in changes else {}

    def build(budget: float, layers: int) -> FrameFusion:
        return replace(base.build(budget, layers), **{**fresh, **changes})

    listed = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    return _ablation(base, suffix, f"{base.name} with {listed}.", build)


def _ablation(base: Method, suffix: str, description: str, build: Callable[[float, int], FrameFusion]) -> Method:
    name, title = f"{base.name}:{suffix}", f"{base.title}: {suffix}"
    return replace(base, name=name, title=title, kind="ablation", description=description, build=build)


def _fastvid_inside(budget: float, layers: int) -> FrameFusion:
    keep = behind_attention(budget, layers)
    return replace(fastvid.METHOD.build(budget, layers), keep=keep, relevance="last")


def _all() -> Iterator[Method]:
    for base in (INSIDE, INPUT):
        for segmentation in ("windows", "single", "dyseg", "dp", "frames"):
            if (base, segmentation) != (INSIDE, "single"):  # that is CDPruner
                yield variant(base, segmentation, segmentation=segmentation)
        for rule in ("marginal-value", "joint"):
            yield variant(base, rule, budget_rule=rule)
        yield variant(base, "merge-dropped", dropped="merge")
    for base in (INSIDE, STAGED):
        yield variant(base, "no-relevance", relevance="none")
    yield variant(INSIDE, "least-attended", relevance_sign=-1)
    yield variant(STAGED, "least-similarity", relevance_sign=-1)
    for base, sources in (
        (INSIDE, ("text", "all-viewers", "similarity")),
        (INPUT, ("similarity",)),
        (STAGED, ("last", "text", "all-viewers")),
    ):
        for relevance in sources:
            yield variant(base, relevance, relevance=relevance)
            yield variant(base, f"least-{relevance}", relevance=relevance, relevance_sign=-1)
    yield variant(STAGED, "joint", budget_rule="joint")
    yield variant(STAGED, "drop", dropped="drop")
    for part, where in ((1 / 3, "third"), (1 / 2, "half"), (2 / 3, "two-thirds")):
        for ratio, share in ((1 / 3, "third"), (1 / 10, "tenth")):
            if (part, ratio) != (2 / 3, 1 / 3):  # that is the method itself
                told = f"{STAGED.name} whose second stage is {where} of the way and keeps a {share}."
                yield _ablation(STAGED, f"{where}-{share}", told, staged(part, ratio))
    yield variant(CASCADE, "no-merge", merge=False)
    yield variant(CASCADE, "joint", budget_rule="joint")
    yield variant(fastv.METHOD, "least-attended", relevance_sign=-1)
    for relevance in ("text", "all-viewers"):
        yield variant(fastv.METHOD, relevance, relevance=relevance)
    told = "fastvid before layer 2 of 28, with the last token's attention for its salient tokens."
    yield _ablation(fastvid.METHOD, "attention", told, _fastvid_inside)


METHODS = tuple(_all())
