"""UniComp: uniqueness in time, among frames and inside them."""

from __future__ import annotations

from framefusion.evaluation.methods.method import PLAIN, Method, at_input

METHOD = Method(
    name="unicomp",
    title="UniComp",
    kind="published",
    citation="arXiv 2512.03575",
    description="Frames that are alike fuse, unusual ones get more tokens, and in each the rarest absorb what "
    "resembles them, before layer 0.",
    build=at_input("unicomp"),
    rule={**PLAIN, "selector": "unicomp"},
)
