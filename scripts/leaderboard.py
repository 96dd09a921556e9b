"""Write the leaderboards of the docs and their pictures: ``make leaderboard``.

``docs/<name>.md`` from ``docs/data/<name>.json``, the ``summary.json`` of ``framefusion eval``, which names the
commands that made it. A test fails while a page differs from what this would write.
"""

from __future__ import annotations

import json
from pathlib import Path

from framefusion.evaluation.leaderboard import page
from framefusion.evaluation.plots import draw

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {
    "leaderboard": "Leaderboard",
    "leaderboard-fresh": "Leaderboard, on questions that no choice was made by",
    "leaderboard-qwen": "Leaderboard, with a Qwen2.5-VL",
}
"""Titles by name."""


def text(name: str) -> str:
    """One of the pages."""
    summary = json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return page(summary, "make leaderboard", PAGES[name], images="images", prefix=f"{name}-", linked=True)


def main() -> None:
    """Write the pages and the pictures."""
    for name in PAGES:
        for part in json.loads((DOCS / "data" / f"{name}.json").read_text(encoding="utf-8"))["frames"]:
            draw(part, DOCS / "images", f"{name}-")
        (DOCS / f"{name}.md").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
