"""The frames of a report as pictures: which visual tokens stayed, merged or went is drawn by ``showing.tokens``."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from framefusion.asking.report.data import FrameView
from framefusion.errors import ArgumentError
from framefusion.showing.tokens import drawn, legend_picture, looks_of, shade

_WIDEST, _PIXELS = 640, 4_000_000
"""Of the pictures in a page: the width of each, and what all of them have together."""
_GROUND = (24, 27, 33)


def embedded_width(frames: Sequence[FrameView]) -> int:
    """How wide the pictures of a page are, so that a page of many frames is not larger than one of few."""
    heights = sum(frame.picture.shape[0] / frame.picture.shape[1] for frame in frames)
    return max(1, min(_WIDEST, int(math.sqrt(_PIXELS / heights)))) if frames else _WIDEST


def picture_uri(picture: np.ndarray, width: int = _WIDEST) -> str:
    """A frame as a JPEG data URI, at most so many pixels wide."""
    return data_uri(Image.fromarray(_fitted(picture, width)), "JPEG", quality=84)


def shade_uri(picture: np.ndarray, states: np.ndarray, width: int = _WIDEST) -> str:
    """What is laid over that picture as a WebP data URI of the same size."""
    return data_uri(Image.fromarray(shade(_fitted(picture, width), states)), "WEBP", quality=70, exact=True)


def marked(frame: FrameView, width: int) -> Image.Image:
    """A frame as its tokens are left, where they have places; ``width`` pixels wide."""
    height = max(1, round(frame.picture.shape[0] * width / frame.picture.shape[1]))
    picture = Image.fromarray(frame.picture).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray(drawn(np.asarray(picture), frame.states)) if frame.placed else picture


def frame_strip(
    frames: Sequence[FrameView], width: int = 240, per_row: int | None = None, legend: bool = True
) -> Image.Image:
    """All marked frames as one picture; a bright bar stands where a new segment begins.

    Args:
        frames: in order of time, at least one.
        width: of one frame, pixels.
        per_row: frames in a row; default up to 8, rows of equal length.
        legend: whether the legend stands below. Default True.

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
    words = None
    if legend:
        looks = looks_of([frame.states for frame in frames if frame.placed])
        words = legend_picture(looks, size[0] - 2 * margin, _GROUND)
    sheet = Image.new("RGB", (size[0], size[1] + (0 if words is None else words.height)), _GROUND)
    if words is not None:
        sheet.paste(words, (margin, size[1] - margin // 2))
    draw = ImageDraw.Draw(sheet)
    for position, frame in enumerate(frames):
        left = margin + position % per_row * (width + gap)
        top = margin + position // per_row * (height + gap)
        sheet.paste(marked(frame, width), (left, top))
        if position and frames[position - 1].segment != frame.segment:
            x = left - (gap + bar) // 2
            draw.rectangle((x, top, x + bar - 1, top + height - 1), fill=(45, 212, 191))
    return sheet


def _fitted(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture no wider than that."""
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def data_uri(image: Image.Image, kind: str, **options: object) -> str:
    """A picture as text that stands in a page; ``kind`` and ``options`` as Pillow saves it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
