"""What a question is about: a video, or a photograph."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from framefusion.video import Video, VideoError, check_file, read_video

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Endings of files that may be photographs; one that moves is read as a video."""

Media = Video | Image.Image


def check_source(source: str | os.PathLike[str]) -> None:
    """Refuse what cannot be read before anything slow begins.

    Raises:
        VideoError: no such file, a directory, or an empty file.
    """
    check_file(source)


def read_media(source: str | os.PathLike[str], frames: int | None = None, fps: float | None = None) -> Media:
    """A photograph as an upright RGB picture, anything else as a video.

    Args:
        source: a local file.
        frames: as for :func:`~framefusion.video.read_video`; says nothing about a photograph.
        fps: likewise.

    Raises:
        VideoError: it cannot be read.
    """
    path = Path(source)
    if path.suffix.lower() not in PICTURES:
        return read_video(path, frames=frames, fps=fps)
    check_file(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise VideoError(f"{path} is not a picture that can be read ({error})") from error
