"""Write docs/leaderboard.md and its pictures from docs/data/leaderboard.json: ``make leaderboard``.

The data is the ``summary.json`` of ``framefusion eval``, which names the commands that made it. A test fails while the
page differs from what this would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from framefusion.evaluation.leaderboard import page
from framefusion.evaluation.plots import draw

DOCS = Path(__file__).resolve().parent.parent / "docs"
PREFIX = "leaderboard-"


def text(summary: dict[str, Any]) -> str:
    """The page."""
    return page(summary, "make leaderboard", "images", PREFIX, linked=True)


def main() -> None:
    """Write the page and the pictures."""
    summary = json.loads((DOCS / "data" / "leaderboard.json").read_text(encoding="utf-8"))
    for part in summary["frames"]:
        draw(part, DOCS / "images", PREFIX)
    (DOCS / "leaderboard.md").write_text(text(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
