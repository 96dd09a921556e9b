"""Mark on the frames which visual tokens stayed, merged or went."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from framefusion.asking.report.data import ABSENT, DROPPED, MERGED, FrameView
from framefusion.errors import ArgumentError

DROPPED_COLOUR = (11, 14, 20, 186)
"""RGBA laid over dropped tokens: they are dimmed."""
MERGED_COLOUR = (245, 158, 11, 130)
"""RGBA laid over merged tokens: they are tinted."""

_EMBED_WIDTH = 360


def token_mask(states: np.ndarray) -> np.ndarray:
    """One RGBA pixel per token, uint8 ``(rows, columns, 4)``; transparent where the token stayed."""
    mask = np.zeros((*states.shape, 4), dtype=np.uint8)
    mask[states == DROPPED] = DROPPED_COLOUR
    mask[states == MERGED] = MERGED_COLOUR
    mask[states == ABSENT] = 0
    return mask


def picture_uri(picture: np.ndarray) -> str:
    """A frame as a JPEG data URI, at most 360 pixels wide."""
    image = Image.fromarray(picture)
    if image.width > _EMBED_WIDTH:
        height = max(1, round(image.height * _EMBED_WIDTH / image.width))
        image = image.resize((_EMBED_WIDTH, height), Image.Resampling.LANCZOS)
    return data_uri(image, "JPEG", quality=84)


def mask_uri(states: np.ndarray) -> str:
    """The token mask as a PNG data URI, one pixel per token."""
    return data_uri(Image.fromarray(token_mask(states)), "PNG", optimize=True)


def marked(frame: FrameView, width: int) -> Image.Image:
    """A frame with its mask laid over it where its tokens have places, ``width`` pixels wide."""
    height = max(1, round(frame.picture.shape[0] * width / frame.picture.shape[1]))
    base = Image.fromarray(frame.picture).resize((width, height), Image.Resampling.BICUBIC).convert("RGBA")
    if not frame.placed:
        return base.convert("RGB")
    mask = Image.fromarray(token_mask(frame.states)).resize((width, height), Image.Resampling.NEAREST)
    return Image.alpha_composite(base, mask).convert("RGB")


def frame_strip(frames: Sequence[FrameView], width: int = 240, per_row: int | None = None) -> Image.Image:
    """All marked frames as one picture; a bright bar stands where a new segment begins.

    Args:
        frames: in order of time, at least one.
        width: of one frame, pixels.
        per_row: frames in a row; default up to 8, rows of equal length.

    Raises:
        ValueError: no frames.
    """
    if not frames:
        raise ArgumentError("frames is empty; there is nothing to draw")
    if per_row is None:
        per_row = math.ceil(len(frames) / math.ceil(len(frames) / 8))
    gap, bar, margin = 8, 4, 12
    height = max(1, *(round(frame.picture.shape[0] * width / frame.picture.shape[1]) for frame in frames))
    rows = math.ceil(len(frames) / per_row)
    size = (2 * margin + per_row * (width + gap) - gap, 2 * margin + rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, (24, 27, 33))
    draw = ImageDraw.Draw(sheet)
    for position, frame in enumerate(frames):
        left = margin + position % per_row * (width + gap)
        top = margin + position // per_row * (height + gap)
        sheet.paste(marked(frame, width), (left, top))
        if position and frames[position - 1].segment != frame.segment:
            x = left - (gap + bar) // 2
            draw.rectangle((x, top, x + bar - 1, top + height - 1), fill=(45, 212, 191))
    return sheet


def data_uri(image: Image.Image, kind: str, **options: object) -> str:
    """A picture as text that stands in a page; ``kind`` and ``options`` as Pillow saves it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
