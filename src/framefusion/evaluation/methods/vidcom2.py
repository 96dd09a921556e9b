"""VidCom²: uniqueness of frames and tokens."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="vidcom2",
    title="VidCom²",
    kind="published",
    citation="arXiv 2505.14454",
    description="Frame budgets by the frames' uniqueness, tokens by theirs, before layer 0.",
    build=at_input("vidcom2"),
    rule={**PLAIN, "selector": "vidcom2"},
)
