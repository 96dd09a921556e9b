"""HoliTom: spatio-temporal merging before the decoder, attention-guided merging inside."""

from __future__ import annotations

from framefusion.methods.method import PLAIN, Method
from framefusion.schedule import pyramid
from framefusion.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    keep = pyramid(budget, layers, steps=((0.0, 1.0), (18 / 28, 0.5)))
    # The rule cuts the video itself, together with its merging.
    return FrameFusion(keep=keep, **{**PLAIN, "relevance": "last", "selector": "holitom"})


METHOD = Method(
    name="holitom",
    title="HoliTom",
    kind="published",
    citation="arXiv 2505.21334",
    description=(
        "Static tokens merge over time and the rest around density peaks before layer 0; before layer 18 of 28 half "
        "of them merge into the most attended."
    ),
    build=_build,
)
