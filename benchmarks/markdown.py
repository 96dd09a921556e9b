"""What the pages of measurements are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first align right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def milliseconds(value: float) -> str:
    """A time in a table."""
    return f"{value / 1e3:.2f} s" if value >= 1e3 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"
