"""README.zh.md says what README.md says: the same commands, the same numbers, the same extras."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT, blocks

_PAGES = (ROOT / "README.md", ROOT / "README.zh.md")
EXTRAS = re.search(
    r"optional-dependencies\](.*?)^\[project\.urls\]",
    (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def test_the_same_blocks_of_code() -> None:
    """But for comments. That is why the blocks of the Chinese page are not run once more."""
    english, chinese = ([(block.language, _uncommented(block.text)) for block in blocks(page)] for page in _PAGES)
    assert chinese == english


def test_the_same_numbers_in_the_tables() -> None:
    english, chinese = (_tables(page.read_text(encoding="utf-8")) for page in _PAGES)
    assert chinese == english
    assert sum(map(len, english)) > 30


def test_the_same_extras() -> None:
    assert EXTRAS is not None
    names = set(re.findall(r"^([a-z]+) = \[", EXTRAS[1], re.MULTILINE))
    english, chinese = ({name for name in names if f"`{name}`" in page.read_text(encoding="utf-8")} for page in _PAGES)
    assert chinese == english
    assert names - english <= {"dev", "docs"}


def _uncommented(code: str) -> str:
    return re.sub(r" +#.*$", "", code, flags=re.MULTILINE)


def _tables(text: str) -> list[list[list[str]]]:
    """The numbers of each row of each table."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.findall(r"\d[\d,.]*", row) for row in table.splitlines()] for table in tables]
