"""One frame a scene: what could be kept by someone who knows where the scenes are."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method
from framefusion.reduction.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(keep=1.0, **PLAIN)


METHOD = Method(
    name="one-frame-a-scene",
    title="One frame a scene",
    kind="control",
    citation="",
    description="The middle frame of every true scene, all of its tokens, at whatever share of the tokens they are.",
    build=_build,
    budgeted=False,
    scenes=True,
)
