"""Which visual tokens a picture still has: one way to draw them, one legend, for reports, overlays and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DROPPED, MERGED, KEPT = 0, 1, 2
"""States of a visual token: gone; averaged into one that stayed; stayed."""
ABSENT = 255
"""State of a grid position that has no token; drawn as what is gone."""


@dataclass(frozen=True)
class Look:
    """How a state is drawn and what it is called.

    Attributes:
        state: KEPT, MERGED or DROPPED.
        name: in one word.
        words: what it means.
        darkest: grey level, 0 … 255, in which black is drawn; None leaves the picture as it is.
        contrast: share of the picture's contrast that is left.
    """

    state: int
    name: str
    words: str
    darkest: int | None = None
    contrast: float = 1.0


LEGEND = (
    Look(KEPT, "kept", "kept"),
    Look(MERGED, "merged", "merged: averaged into one that was kept", 56, 0.36),
    Look(DROPPED, "dropped", "dropped", 6, 0.19),
)
"""Every state, what stays first. What is merged is never darker than what is dropped, whatever the picture shows."""

_SAMPLE = ((235, 166, 60), (46, 134, 193))
"""Colours of the legend's swatches where they are kept."""
_EDGE = 205
"""Grey level of the line around what is kept, which shows it where a picture has no colour itself."""


def shade(picture: np.ndarray, states: np.ndarray) -> np.ndarray:
    """What is laid over a picture: transparent where its tokens are kept, else the picture itself, grey and dim.

    A thin line runs around what is kept, outside of it.

    Args:
        picture: uint8 ``(H, W, 3)``.
        states: uint8 ``(rows, columns)`` of DROPPED, MERGED, KEPT or ABSENT; each covers an equal part of the picture.

    Returns:
        uint8 ``(H, W, 4)``, RGBA.
    """
    height, width = picture.shape[:2]
    spread = _spread(states, height, width)
    grey = picture @ np.array([0.299, 0.587, 0.114])
    level = np.zeros((height, width))
    spread[spread == ABSENT] = DROPPED
    for look in LEGEND:
        if look.darkest is not None:
            chosen = spread == look.state
            level[chosen] = look.darkest + look.contrast * grey[chosen]
    kept = spread == KEPT
    level[_widened(kept, max(1, round(width / 320))) & ~kept] = _EDGE
    over = np.empty((height, width, 4), np.uint8)
    over[..., :3] = np.rint(level)[..., None]
    over[..., 3] = np.where(kept, 0, 255)
    return over


def drawn(picture: np.ndarray, states: np.ndarray) -> np.ndarray:
    """A picture as its tokens are left: those kept in colour, the others grey and dim.

    Arguments as of :func:`shade`; returns uint8 ``(H, W, 3)``.
    """
    over = shade(picture, states)
    return np.where(over[..., 3:] > 0, over[..., :3], picture)


def looks_of(states: Sequence[np.ndarray]) -> list[Look]:
    """The part of the legend that some pictures need; what is kept always."""
    found = {int(state) for own in states for state in np.unique(own)}
    found |= {KEPT, *([DROPPED] if ABSENT in found else [])}
    return [look for look in LEGEND if look.state in found]


def swatch(look: Look) -> tuple[str, str]:
    """The two colours between which a look's sample in a legend runs, as ``#rrggbb``."""
    sample = drawn(np.array([_SAMPLE], np.uint8), np.full((1, 1), look.state, np.uint8))[0]
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in sample.tolist())  # type: ignore[return-value]


def legend_html(looks: Sequence[Look]) -> str:
    """The legend as a list, with styles of its own."""
    box = (
        "display:inline-block;width:1.1em;height:1.1em;margin-right:.45em;border:1px solid rgb(127 127 127 / 60%);"
        "border-radius:3px;vertical-align:-.16em"
    )
    items = "".join(
        '<li style="margin:0 1.15em .2em 0;padding:0">'
        f'<span style="{box};background:linear-gradient(135deg,{",".join(swatch(look))})"></span>{look.words}</li>'
        for look in looks
    )
    return f'<ul class="legend" style="display:flex;flex-wrap:wrap;margin:0;padding:0;list-style:none">{items}</ul>'


def legend_picture(looks: Sequence[Look], width: int, ground: tuple[int, int, int]) -> Image.Image:
    """The legend as a picture of a width, in as many lines as it takes, with names alone where words would be cut;
    ``ground`` is the colour behind it."""
    font, side, gap = ImageFont.load_default(15), 16, 22
    placed: list[tuple[Look, str, int, int]] = []
    left = line = 0
    for look in looks:
        words = look.words if side + 8 + font.getlength(look.words) <= width else look.name
        needed = side + 8 + int(font.getlength(words))
        if left and left + needed > width:
            left, line = 0, line + 1
        placed.append((look, words, left, line))
        left += needed + gap
    sheet = Image.new("RGB", (width, (line + 1) * (side + 8)), ground)
    draw = ImageDraw.Draw(sheet)
    for look, words, x, line in placed:
        top = line * (side + 8) + 4
        sheet.paste(_sample(look, side), (x, top))
        draw.rectangle((x, top, x + side - 1, top + side - 1), outline=(127, 127, 127))
        draw.text((x + side + 8, top + side / 2), words, fill=(225, 228, 232), font=font, anchor="lm")
    return sheet


def _sample(look: Look, side: int) -> Image.Image:
    """A swatch: a square that runs from one colour of the sample to the other, as this look draws it."""
    place = np.add.outer(np.arange(side), np.arange(side))[..., None] / (2 * side - 2)
    first, second = (np.array(colour, float) for colour in _SAMPLE)
    picture = np.rint((1 - place) * first + place * second).astype(np.uint8)
    return Image.fromarray(drawn(picture, np.full((1, 1), look.state, np.uint8)))


def _spread(states: np.ndarray, height: int, width: int) -> np.ndarray:
    """The state of each pixel."""
    rows, columns = states.shape
    return states[np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]


def _widened(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask with all that is at most so many pixels away, also across corners."""
    wide = mask
    for axis in (0, 1):
        own = wide.copy()
        for step in range(1, pixels + 1):
            first, last = (slice(None),) * axis + (slice(step, None),), (slice(None),) * axis + (slice(None, -step),)
            own[first] |= wide[last]
            own[last] |= wide[first]
        wide = own
    return wide
