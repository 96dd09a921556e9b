"""V-CAST: curvature of the frames' path, outliers inside them."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="v-cast",
    title="V-CAST",
    kind="published",
    citation="arXiv 2603.27650",
    description="Frame budgets by where the video turns, tokens by their distance from the frame's mean and their "
    "norm, before layer 0.",
    build=at_input("v-cast"),
    rule={**PLAIN, "selector": "v-cast"},
)
