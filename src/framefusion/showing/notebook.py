"""Short HTML for notebooks: no script, no style sheet, nothing from the network, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from framefusion.showing.tokens import Look, legend_html

_BAR = "display:inline-block;width:%.3f%%;height:%.1f%%;background:#0f9a8d;vertical-align:bottom"
_LONGEST = 2000  # characters of a text; more is cut


@dataclass(frozen=True)
class Card:
    """What a notebook shows of a reduction.

    Attributes:
        title: the question, or what was reduced.
        answer: None without one.
        rows: names and values.
        per_layer: visual tokens in each decoder layer.
        total: before any reduction.
        picture: data URI of the frames; None without.
        legend: how tokens are drawn in it.
        caption: of the picture.
    """

    title: str
    answer: str | None
    rows: Sequence[tuple[str, str]]
    per_layer: Sequence[int]
    total: int
    picture: str | None = None
    legend: Sequence[Look] = ()
    caption: str = ""

    def html(self) -> str:
        """A ``div`` that stands alone."""
        parts = [f'<div style="opacity:.75">{_text(self.title)}</div>']
        if self.answer is not None:
            parts.append(f'<div style="font-size:1.3em;font-weight:600">{_text(self.answer) or "(no text)"}</div>')
        if self.picture is not None:
            parts.append(
                f'<img src="{escape(self.picture)}" alt="{escape(self.caption)}" '
                f'style="max-width:100%;margin:.4em 0">{legend_html(self.legend) if self.legend else ""}'
                f'<div style="opacity:.75;font-size:.9em">{_text(self.caption)}</div>'
            )
        parts += [_bars(self.per_layer, self.total), _table(self.rows)]
        return f'<div style="max-width:60em;line-height:1.5">{"".join(parts)}</div>'


def _bars(per_layer: Sequence[int], total: int) -> str:
    """A bar for each layer, as high as its share."""
    if not per_layer or not total:
        return ""
    width = 100 / len(per_layer)
    bars = "".join(
        f'<span title="layer {layer}: {count:,} visual tokens" style="{_BAR % (width * 0.85, 100 * count / total)};'
        f'margin-right:{width * 0.15:.3f}%"></span>'
        for layer, count in enumerate(per_layer)
    )
    label = f"visual tokens in layers 0–{len(per_layer) - 1}: {per_layer[0]:,} … {per_layer[-1]:,} of {total:,}"
    box = "height:3.2em;max-width:26em;margin-top:.5em;white-space:nowrap;border-bottom:1px solid;font-size:1em"
    return (
        f'<div role="img" aria-label="{escape(label)}" style="{box}">{bars}'
        f'<span style="display:inline-block;height:100%"></span></div>'
        f'<div style="opacity:.75;font-size:.9em">{escape(label)}</div>'
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cell = "padding:.1em 1.2em .1em 0;text-align:left;border:0;background:none"
    lines = "".join(
        f'<tr style="background:none"><td style="{cell};opacity:.75">{_text(name)}</td>'
        f'<td style="{cell}">{_text(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table style="border-collapse:collapse;margin:.4em 0 0;border:0">{lines}</table>' if rows else ""


def _text(value: str) -> str:
    return escape(value if len(value) <= _LONGEST else f"{value[:_LONGEST]} …")
