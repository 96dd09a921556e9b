"""Tokens drawn at random: the control that several published rules do not beat."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="random",
    title="Random",
    kind="control",
    citation="",
    description="Tokens drawn at random, before layer 0.",
    build=at_input("random"),
    random=True,
    rule={**PLAIN, "selector": "random"},
)
