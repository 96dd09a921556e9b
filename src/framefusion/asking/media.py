"""What a question is about: a video, or a photograph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import check_source, source_of
from framefusion.asking.decoding.stills import ENDINGS, is_moving_picture, is_picture, read_picture
from framefusion.asking.video import FitFrames, Video, check_request, parts_of

__all__ = ["Media", "check_source", "media_parts", "read_media"]

Media = Video | Image.Image
"""A video, or an upright RGB photograph."""


def read_media(
    source: str | os.PathLike[str],
    frames: int | None = None,
    fps: float | None = None,
    fit: FitFrames | None = None,
) -> Media:
    """A photograph as an upright RGB picture, anything else as a video. The first bytes decide, not the name.

    Args:
        source: what :func:`~framefusion.asking.video.read_video` takes, or a photograph.
        frames: as for :func:`~framefusion.asking.video.read_video`; says nothing about a photograph.
        fps: likewise.
        fit: likewise.

    Raises:
        VideoError: it cannot be read.
    """
    (medium,) = media_parts(source, frames, fps, fit=fit)
    return medium


def media_parts(
    source: str | os.PathLike[str],
    frames: int | None = None,
    fps: float | None = None,
    size: int | None = None,
    fit: FitFrames | None = None,
) -> Iterator[Media]:
    """As :func:`read_media`, a video in parts of which no more than one is in memory.

    Args:
        source: as there.
        frames: likewise.
        fps: likewise.
        size: frames of a part; default all.
        fit: as there, asked about each part.

    Raises:
        VideoError: it cannot be read.
    """
    check_request(frames, fps)
    with source_of(source) as given:
        if is_picture(given) and not is_moving_picture(given):
            yield read_picture(given)
            return
        try:
            yield from parts_of(given, frames, fps, size, fit)
        except VideoError as error:
            if Path(given.location).suffix.lower() not in ENDINGS:
                raise
            raise VideoError(f"{given.name} is neither a picture nor a video that can be read") from error
