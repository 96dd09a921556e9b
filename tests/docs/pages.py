"""The pages that people read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pages() -> list[Path]:
    """Every page of the repository: those of the docs and those beside the code."""
    beside = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "training/README.md")
    return [*(ROOT / name for name in beside), *sorted((ROOT / "docs").rglob("*.md"))]
