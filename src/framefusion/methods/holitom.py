"""HoliTom: spatio-temporal merging before the decoder, attention-guided merging inside."""

from __future__ import annotations

from framefusion.methods.method import Method, two_stages
from framefusion.settings import FrameFusion


def _build(budget: float, layers: int) -> FrameFusion:
    return FrameFusion(
        keep=two_stages(budget, layers, second=round(layers * 18 / 28), ratio=0.5),
        merge=False,
        # The rule cuts the video itself, together with its merging.
        segmentation="single",
        budget_rule="uniform",
        relevance="last",
        relevance_sign=1,
        selector="holitom",
    )


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
