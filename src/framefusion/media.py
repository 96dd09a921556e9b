"""What a question is about: a video, or a photograph."""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from framefusion.decoding.errors import VideoError
from framefusion.decoding.source import Source, check_source, source_of
from framefusion.decoding.stills import ENDINGS, is_moving_picture, is_picture, read_picture
from framefusion.video import Video, check_request, read_video

__all__ = ["Media", "check_source", "read_media"]

Media = Video | Image.Image
"""A video, or an upright RGB photograph."""

_MOST_BYTES = 256 * 2**20
"""Largest photograph that is fetched from an address."""
_SECONDS = 30.0


def read_media(source: str | os.PathLike[str], frames: int | None = None, fps: float | None = None) -> Media:
    """A photograph as an upright RGB picture, anything else as a video. The first bytes decide, not the name.

    Args:
        source: what :func:`~framefusion.video.read_video` takes, or a photograph.
        frames: as for :func:`~framefusion.video.read_video`; says nothing about a photograph.
        fps: likewise.

    Raises:
        VideoError: it cannot be read.
    """
    check_request(frames, fps)
    with source_of(source) as given, _fetched(given) as local:
        if is_picture(local) and not is_moving_picture(local):
            return read_picture(local)
        try:
            return read_video(given.location if given.remote else local.location, frames=frames, fps=fps)
        except VideoError as error:
            if Path(local.location).suffix.lower() not in ENDINGS:
                raise
            raise VideoError(f"{local.name} is neither a picture nor a video that can be read") from error


@contextmanager
def _fetched(source: Source) -> Iterator[Source]:
    """A photograph at an address as a temporary file; everything else as it is."""
    ending = Path(urllib.parse.urlsplit(source.location).path).suffix.lower()
    if not source.remote or ending not in ENDINGS:
        yield source
        return
    try:
        with urllib.request.urlopen(source.location, timeout=_SECONDS) as answer:
            data = answer.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise VideoError(f"{source.name} cannot be fetched ({str(reason).lower()})") from error
    if len(data) > _MOST_BYTES:
        raise VideoError(f"{source.name} is larger than {_MOST_BYTES // 2**20} MiB; fetch it and name the file")
    with tempfile.TemporaryDirectory(prefix="framefusion-") as directory:
        path = Path(directory, f"fetched{ending}")
        path.write_bytes(data)
        yield Source(source.name, str(path))
