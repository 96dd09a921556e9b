"""Decode a handful of frames from a video, uniformly over its playing time.

A first pass reads the packets without decoding them and notes when each frame is shown; the second decodes only what
lies between a key frame and a wanted frame, and compares what it sees with the first. Where the packets do not tell,
or tell something else than the decoder shows, the file is decoded from its beginning: slower, and right for streams
without time stamps, joined recordings and damaged files. At no time are more frames in memory than the ones asked for
and the ones being decoded.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from framefusion.asking.decoding.container import reason_of
from framefusion.asking.decoding.errors import IrregularError, VideoError
from framefusion.asking.decoding.frames import read_through, sought
from framefusion.asking.decoding.pictures import MAX_BYTES, Fit, Resize
from framefusion.asking.decoding.source import Source, source_of
from framefusion.asking.decoding.stills import is_moving_picture, read_folder, read_moving_picture
from framefusion.asking.decoding.timeline import Timeline, decoded_timeline, index_of
from framefusion.checks import is_whole

__all__ = ["DEFAULT_FRAMES", "MAX_BYTES", "Video", "VideoError", "check_request", "read_video"]

logger = logging.getLogger(__name__)

DEFAULT_FRAMES = 8
"""Frames that :func:`read_video` takes when neither ``frames`` nor ``fps`` is given. A model is shown
:func:`framefusion.assets.usual_frames` of them."""

FitFrames = Callable[[int, int, int], Resize | None]
"""From a number of frames that are shown at once, their height and their width in pixels to what resizes each, from
uint8 ``(H, W, 3)`` to the same of another size; None leaves them as they are. See
:class:`framefusion.asking.fitting.Fitting`."""

COMPLETE = 0.5
"""Seconds by which a file may be shorter than it announces without a word."""


@dataclass(frozen=True)
class Video:
    """Frames sampled from one video.

    Attributes:
        frames: uint8 array ``(T, H, W, 3)``, RGB, upright, with square pixels unless ``read_size`` says otherwise.
        timestamps: float64 array ``(T,)``, seconds from the first frame of the video.
        indices: int64 array ``(T,)``, position of each frame in the source, in display order.
        duration: playing time in seconds, up to the end of the last readable frame.
        source_fps: mean frame rate of the source, frames per second.
        total_frames: number of readable frames in the source.
        path: the file; of an address, a path that ends in its last part.
        announced: playing time in seconds that the file announces, 0 when it says nothing.
        damaged: how many of the frames are damaged, or refer to damaged ones.
        read_size: height and width that the frames had before they were given the size that a model's processor makes
            of them; None where they were not.
    """

    frames: np.ndarray = field(repr=False)
    timestamps: np.ndarray
    indices: np.ndarray
    duration: float
    source_fps: float
    total_frames: int
    path: Path
    announced: float = 0.0
    damaged: int = 0
    read_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def complete(self) -> bool:
        """False when the file announces more playing time than could be read."""
        return self.announced <= self.duration + COMPLETE

    @property
    def warning(self) -> str | None:
        """What a viewer would notice, as one sentence; None if there is nothing."""
        found = []
        if not self.complete:
            found.append(f"ends after {self.duration:.1f} s of the {self.announced:.1f} s it announces")
        if self.damaged:
            found.append(f"{self.damaged} of {len(self)} frames are damaged")
        return "; ".join(found) or None

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width before frames were given another size."""
        return self.read_size or (self.height, self.width)

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.frames.shape[2])


def read_video(
    path: str | os.PathLike[str],
    frames: int | None = None,
    fps: float | None = None,
    fit: FitFrames | None = None,
) -> Video:
    """Decode frames at the middle of equal intervals of the playing time.

    The choice is deterministic: with ``T`` intervals over a duration ``D``, frame ``i`` is the one on display
    at ``(i + ½)·D/T``. A video with fewer frames than asked for gives every frame once.

    Args:
        path: a local file in any container and codec that FFmpeg decodes; an animated GIF, PNG or WebP; a folder of
            pictures, shown in the order of their names, one a second; an ``http`` or ``https`` address; or ``"-"`` for
            standard input.
        frames: number of frames, at least 1. Default 8 when ``fps`` is not given either; a model is shown more
            unless told otherwise, see :func:`framefusion.ask`.
        fps: frames per second of playing time, above 0; ``T = max(1, floor(D·fps + ½))``.
            Excludes ``frames``.
        fit: tells what resizes frames as they are read, see :data:`FitFrames`. Default None: they keep their size.

    Returns:
        The frames and where in the source they come from, see :class:`Video`. A warning is logged if some of them are
        damaged, or if the file is shorter than it announces.

    Raises:
        VideoError: nothing there to read, not a video, no video stream, no frame that can be decoded intact,
            ``frames < 1``, ``fps <= 0``, both given, or more than 8 GiB of decoded frames asked for.
    """
    check_request(frames, fps)
    with source_of(path) as source:
        (video,) = parts_of(source, frames, fps, fit=fit)
    return video


def parts_of(
    source: Source,
    frames: int | None,
    fps: float | None,
    size: int | None = None,
    fit: FitFrames | None = None,
) -> Iterator[Video]:
    """The frames of :func:`read_video` in parts, of files no more than one of them in memory.

    A source that has to be decoded from its beginning is so for every part.

    Args:
        source: that was found.
        frames: of a request that was checked.
        fps: likewise.
        size: frames of a part; None for all.
        fit: as there, asked about each part.
    """
    fitted = _Fitted(fit, size)
    try:
        timeline, wanted, read = _plan(source, frames, fps, fitted)
        size = size or len(wanted)
        try:
            pictures = fitted.read(read, wanted[:size])
        except IrregularError:
            timeline, wanted, read = _from_the_beginning(source, frames, fps)
            pictures = fitted.read(read, wanted[:size])
        yield _made(source, timeline, wanted[:size], pictures, len(wanted), fitted.read_size)
        for first in range(size, len(wanted), size):
            own = wanted[first : first + size]
            yield _made(source, timeline, own, fitted.read(read, own), len(wanted), fitted.read_size)
    except IrregularError as error:
        raise VideoError(f"{source.name} shows something else than it tells; ask for fewer frames at once") from error
    except av.error.FFmpegError as error:
        raise VideoError(f"{source.name} cannot be read ({reason_of(error)})") from error


class _Fitted:
    """Reads parts, and knows what size their pictures had."""

    def __init__(self, fit: FitFrames | None, size: int | None) -> None:
        self._fit, self._size = fit, size
        self.read_size: tuple[int, int] | None = None

    def read(self, read: Read, wanted: list[int]) -> np.ndarray:
        """Pictures of positions of which some are wanted several times: a frame may be on display for long."""
        positions = sorted(set(wanted))
        pictures = read(positions, self.of(len(wanted)))
        return pictures if len(positions) == len(wanted) else pictures[np.searchsorted(positions, wanted)]

    def of(self, count: int) -> Fit | None:
        """What resizes the pictures of a part, if they are as many."""
        fit, shown = self._fit, count if self._size is None else min(count, self._size)

        def asked(height: int, width: int) -> Resize | None:
            assert fit is not None
            resize = fit(shown, height, width)
            self.read_size = None if resize is None else (height, width)
            return resize

        return None if fit is None else asked


def _made(
    source: Source,
    timeline: Timeline,
    wanted: list[int],
    pictures: np.ndarray,
    count: int,
    read_size: tuple[int, int] | None,
) -> Video:
    """The video of some of the ``count`` pictures that were asked for."""
    share, total = len(wanted) / count, len(timeline.times)
    video = Video(
        frames=pictures,
        timestamps=timeline.times[wanted] - timeline.times[0],
        indices=np.array(wanted, dtype=np.int64),
        duration=timeline.duration * share,
        source_fps=timeline.rate,
        total_frames=max(1, round(total * share)),
        path=source.path,
        announced=timeline.announced * share,
        damaged=int((~timeline.intact[wanted]).sum()),
        read_size=read_size,
    )
    if video.warning is not None:
        logger.warning("%s: %s", video.path.name, video.warning)
    return video


Read = Callable[[list[int], Fit | None], np.ndarray]
"""Pictures of some positions, ascending and different, resized."""


def _plan(source: Source, frames: int | None, fps: float | None, fitted: _Fitted) -> tuple[Timeline, list[int], Read]:
    """When the source shows what, the positions of the pictures that are wanted, and what reads them."""
    still = read_folder if os.path.isdir(source.location) else read_moving_picture
    if still is read_folder or is_moving_picture(source):
        pictures, timeline, wanted = still(source, lambda timeline: _chosen(timeline, frames, fps), fitted.of)
        read = sorted(set(wanted))
        return timeline, wanted, lambda positions, _: pictures[np.searchsorted(read, positions)]
    try:
        index = index_of(source)
    except IrregularError:
        return _from_the_beginning(source, frames, fps)
    wanted = _chosen(index.timeline, frames, fps)
    return index.timeline, wanted, lambda positions, fit: sought(source, index, positions, fit)


def _from_the_beginning(source: Source, frames: int | None, fps: float | None) -> tuple[Timeline, list[int], Read]:
    """The same of a source whose packets do not tell."""
    logger.debug("%s has to be decoded from its beginning", source.name)
    timeline = decoded_timeline(source)
    wanted = _chosen(timeline, frames, fps)
    if not timeline.intact[wanted].any():
        raise VideoError(f"none of the frames wanted of {source.name} is intact; it is damaged or encrypted")
    return timeline, wanted, lambda positions, fit: read_through(source, positions, fit)


def _chosen(timeline: Timeline, frames: int | None, fps: float | None) -> list[int]:
    if fps is not None:
        return timeline.choose(max(1, math.floor(timeline.duration * fps + 0.5)))
    return timeline.choose(frames or DEFAULT_FRAMES)


def check_request(frames: int | None, fps: float | None) -> None:
    """Refuse numbers of frames that make no sense.

    Raises:
        VideoError: ``frames < 1``, ``fps <= 0``, or both given.
    """
    if frames is not None and fps is not None:
        raise VideoError(f"frames={frames} and fps={fps} exclude each other; give one of them")
    if frames is not None and not is_whole(frames):
        raise VideoError(f"frames must be a whole number, got {frames!r}")
    if frames is not None and frames < 1:
        raise VideoError(f"frames must be at least 1, got {frames}")
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise VideoError(f"fps must be a number above 0, got {fps}")
