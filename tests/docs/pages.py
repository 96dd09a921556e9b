"""The pages that people read, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("leaderboard", "footage")
"""Pages of ``docs/results`` whose one block is what wrote their data (``tests/evaluation/test_pages.py`` holds it)."""

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: where it is.
        line: of the first line of its text, from 1.
        language: behind the fence.
        text: what it says.
        reason: why it is not run, as the comment ``<!-- not run: … -->`` in the line before it says; None if it is.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None


def pages() -> list[Path]:
    """Every page of the repository: those of the docs and those beside the code."""
    beside = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
    return [*(ROOT / name for name in (*beside, "training/README.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def with_blocks() -> list[Path]:
    """The pages whose blocks of code are run; those of README.zh.md are the ones of README.md."""
    aside = (*GENERATED, "README.zh")
    return [page for page in pages() if not page.name.startswith(aside) and blocks(page)]


def name(page: Path) -> str:
    """As tests and people call it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"], match["text"], match["reason"]))
    return found
