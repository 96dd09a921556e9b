"""Every link of the pages and notebooks leads somewhere, to the heading that it names, too."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

LINK = re.compile(r"\]\(([^)\s]+)\)")
OWN = re.compile(
    r"https://(?:github\.com|colab\.research\.google\.com/github)/framefusion/framefusion(?:/(?:blob|tree)/main/(.+))?"
)
"""This repository from outside, and a file of it; without one the page is README.md."""
ABROAD = [
    *sorted((ROOT / "examples").glob("*.ipynb")),
    ROOT / "examples" / "space" / "README.md",
    ROOT / "packages" / "framefusion-photos" / "README.md",
]
"""Texts that are read elsewhere, so that their links name the repository in full."""


@cache
def anchors(path: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them: lower case, no punctuation, dashes for spaces."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    counts: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        counts[re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")] += 1
    return {f"{slug}-{n}" if n else slug for slug, count in counts.items() for n in range(count)}


def links(page: Path) -> list[str]:
    """Where the text of a page, or of a notebook's cells, leads."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return LINK.findall(text)


def led(page: Path, target: str) -> tuple[Path, str] | None:
    """The file and the heading of a link; None where it leads out of the repository."""
    name, _, anchor = target.partition("#")
    if own := OWN.fullmatch(name):
        return ROOT / (own[1] or "README.md"), anchor
    if name.startswith(("https://", "http://", "mailto:")):
        return None
    return (page.parent / name).resolve() if name else page, anchor


@pytest.mark.parametrize("page", [*pages(), *ABROAD], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        found = led(page, target)
        if found is None:
            continue
        path, anchor = found
        assert path.exists(), target
        assert ROOT in path.parents, target
        if anchor:
            assert anchor in anchors(path), target


def test_links_from_outside_are_followed_into_the_repository() -> None:
    (notebook, *_) = ABROAD
    own = [found for target in links(notebook) if (found := led(notebook, target)) is not None]
    assert (ROOT / "README.md", "models") in own
    assert (notebook, "") in own
    assert led(notebook, "https://github.com/framefusion/framefusion/issues") is None
    assert led(notebook, "https://example.org/#models") is None
