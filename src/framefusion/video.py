"""Decode a handful of frames from a video file, uniformly over its playing time.

A first pass reads the packets without decoding them and notes when each frame is shown. That makes the
choice of frames exact for variable frame rates, streams that announce no duration and files that end
early; the second pass decodes only what lies between a keyframe and a wanted frame. At no time are more
frames in memory than the ones asked for and the one being decoded.
"""

from __future__ import annotations

import bisect
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from framefusion.errors import FrameFusionError

logger = logging.getLogger(__name__)

DEFAULT_FRAMES = 8
"""Frames that :func:`read_video` takes when neither ``frames`` nor ``fps`` is given."""

MAX_BYTES = 8 * 2**30
"""Largest decoded size (bytes) that :func:`read_video` agrees to return."""

_FALLBACK_RATE = 25.0
_TOLERANCE = 1e-6  # seconds; finer than any container's clock
# PyAV 19 always does that, and has no argument for it.
_OPEN_OPTIONS: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_TEXT_FORMATS = {"tty"}  # FFmpeg renders any text file as terminal video


class VideoError(FrameFusionError, ValueError):
    """A video that cannot be read, or a request for frames that makes no sense. The text is one sentence."""


@dataclass(frozen=True)
class Video:
    """Frames sampled from one video file.

    Attributes:
        frames: uint8 array ``(T, H, W, 3)``, RGB, upright (rotation metadata is applied).
        timestamps: float64 array ``(T,)``, seconds from the first frame of the video.
        indices: int64 array ``(T,)``, position of each frame in the source, in display order.
        duration: playing time in seconds, up to the end of the last readable frame.
        source_fps: mean frame rate of the source, frames per second.
        total_frames: number of readable frames in the source.
        path: the file.
        complete: False when the file announces more playing time than could be read.
    """

    frames: np.ndarray = field(repr=False)
    timestamps: np.ndarray
    indices: np.ndarray
    duration: float
    source_fps: float
    total_frames: int
    path: Path
    complete: bool = True

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.frames.shape[2])


def read_video(path: str | os.PathLike[str], frames: int | None = None, fps: float | None = None) -> Video:
    """Decode frames at the middle of equal intervals of the playing time.

    The choice is deterministic: with ``T`` intervals over a duration ``D``, frame ``i`` is the one on display
    at ``(i + ½)·D/T``. A video with fewer frames than asked for gives every frame once.

    Args:
        path: a local file in any container and codec that FFmpeg decodes.
        frames: number of frames, at least 1. Default 8 when ``fps`` is not given either.
        fps: frames per second of playing time, above 0; ``T = max(1, floor(D·fps + ½))``.
            Excludes ``frames``.

    Returns:
        The frames and where in the source they come from, see :class:`Video`.

    Raises:
        VideoError: no such file, a directory, not a video, no video stream, no decodable frame,
            ``frames < 1``, ``fps <= 0``, both given, or more than 8 GiB of decoded frames asked for.
    """
    check_request(frames, fps)
    path = check_file(path)
    index = _scan(path)
    wanted = _choose(index, frames, fps)
    pictures = _decode(path, index, wanted)
    if index.announced > index.duration + 0.5:
        logger.warning(
            "%s ends after %.1f s of the %.1f s it announces; what could be read is used",
            path.name,
            index.duration,
            index.announced,
        )
    return Video(
        frames=pictures,
        timestamps=np.array([index.times[i] - index.times[0] for i in wanted]),
        indices=np.array(wanted, dtype=np.int64),
        duration=index.duration,
        source_fps=len(index.times) / index.duration,
        total_frames=len(index.times),
        path=path,
        complete=index.announced <= index.duration + 0.5,
    )


@dataclass
class _Index:
    """What the packets say; times in seconds, ascending."""

    times: list[float]
    keyframes: list[float]
    stamped: bool  # False: the container gives no display times, frames are counted instead
    duration: float
    announced: float


def check_request(frames: int | None, fps: float | None) -> None:
    """Refuse numbers of frames that make no sense.

    Raises:
        VideoError: ``frames < 1``, ``fps <= 0``, or both given.
    """
    if frames is not None and fps is not None:
        raise VideoError(f"frames={frames} and fps={fps} exclude each other; give one of them")
    if frames is not None and (isinstance(frames, bool) or not isinstance(frames, (int, np.integer))):
        raise VideoError(f"frames must be a whole number, got {frames!r}")
    if frames is not None and frames < 1:
        raise VideoError(f"frames must be at least 1, got {frames}")
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise VideoError(f"fps must be a number above 0, got {fps}")


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path, if it is a file that has content.

    Raises:
        VideoError: no such file, a directory, or an empty file.
    """
    path = Path(path)
    if not path.exists():
        raise VideoError(f"no such file: {path}")
    if path.is_dir():
        raise VideoError(f"{path} is a directory; name a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty, not a video")
    return path


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream that is not a cover picture."""
    try:
        # an absolute path can never be taken for a URL
        container = av.open(str(path.resolve()), **_OPEN_OPTIONS)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path} is not a video that can be read ({reason.lower()})") from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise VideoError(f"{path} is a text file, not a video")
        streams = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
        if not streams:
            raise VideoError(f"{path} has no video stream")
        if streams[0].codec_context is None:
            raise VideoError(f"{path} is in a video codec that this build of FFmpeg cannot decode")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _scan(path: Path) -> _Index:
    """Read every packet without decoding it."""
    stamps: list[float | None] = []
    keys: list[bool] = []
    last_duration = 0.0
    with _open(path) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or _FALLBACK_RATE)
        time_base = float(stream.time_base)
        for packet in _readable(container.demux(stream)):
            if packet.size == 0 or packet.is_discard:
                continue
            stamps.append(None if packet.pts is None else packet.pts * time_base)
            keys.append(packet.is_keyframe)
            last_duration = (packet.duration or 0) * time_base
        announced = _announced_duration(container, stream)
    if not stamps:
        raise VideoError(f"{path} contains no frames")
    known = [stamp for stamp in stamps if stamp is not None]
    stamped = len(known) == len(stamps)
    if stamped:
        times = sorted(known)
        keyframes = sorted(stamp for stamp, key in zip(known, keys, strict=True) if key)
    else:
        times = [i / rate for i in range(len(stamps))]
        keyframes = []
    duration = times[-1] - times[0] + (last_duration if last_duration > 0 else 1.0 / rate)
    return _Index(times, keyframes, stamped, duration, announced)


def _announced_duration(container: Any, stream: Any) -> float:
    """Seconds that the headers promise, 0 when they say nothing."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Without a stream duration the container's is FFmpeg's estimate or another stream's length.
    return 0.0


def _choose(index: _Index, frames: int | None, fps: float | None) -> list[int]:
    """Display-order positions of the frames to decode, ascending."""
    count = frames or DEFAULT_FRAMES
    if fps is not None:
        count = max(1, math.floor(index.duration * fps + 0.5))
    if count >= len(index.times):
        return list(range(len(index.times)))
    centers = [index.times[0] + (i + 0.5) * index.duration / count for i in range(count)]
    # Timestamps carry rounding of the container's clock; a frame due within the tolerance is on display.
    return [bisect.bisect_right(index.times, center + _TOLERANCE) - 1 for center in centers]


def _decode(path: Path, index: _Index, wanted: list[int]) -> np.ndarray:
    """RGB frames ``(T, H, W, 3)`` for ascending positions."""
    targets = [index.times[i] for i in wanted]
    out: np.ndarray | None = None
    for position, picture in enumerate(_pictures(path, index, targets)):
        if out is None:
            size = len(wanted) * picture.nbytes
            if size > MAX_BYTES:
                raise VideoError(
                    f"{len(wanted)} frames of {picture.shape[1]}×{picture.shape[0]} pixels would take "
                    f"{size / 2**30:.0f} GiB; ask for fewer frames"
                )
            out = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
        out[position] = picture
    if out is None:
        raise VideoError(f"{path} contains no frame that can be decoded")
    return out


def _pictures(path: Path, index: _Index, targets: list[float]) -> Iterator[np.ndarray]:
    """One picture per target time, in order; none at all when nothing can be decoded."""
    size: tuple[int, int] | None = None
    last: Any = None
    position = 0
    for time, frame in _frames_near(path, index, targets):
        if size is None:
            size = (frame.width, frame.height)
        while position < len(targets) and time > targets[position] + _TOLERANCE:
            # the wanted frame itself was damaged: the one before it was still on display
            yield _picture(frame if last is None else last, size)
            position += 1
        last = frame
        while position < len(targets) and abs(time - targets[position]) <= _TOLERANCE:
            yield _picture(frame, size)
            position += 1
        if position == len(targets):
            return
    if last is not None and size is not None:
        for _ in targets[position:]:
            yield _picture(last, size)


class _SeekMissedError(Exception):
    """A seek landed behind the wanted frame; ``position`` is that of the first target not served."""

    def __init__(self, position: int) -> None:
        self.position = position


def _frames_near(path: Path, index: _Index, targets: list[float]) -> Iterator[tuple[float, Any]]:
    """Decoded ``(time, frame)``, skipping by keyframe what no target needs."""
    try:
        yield from _walk(path, index, targets, seek=bool(index.keyframes))
    except _SeekMissedError as missed:
        logger.debug("%s: seeking is not exact in this file; reading on without it", path)
        yield from _walk(path, index, targets[missed.position :], seek=False)


def _walk(path: Path, index: _Index, targets: list[float], seek: bool) -> Iterator[tuple[float, Any]]:
    with _open(path) as (container, stream):
        decoded = _decoded(container, stream)
        now = -math.inf
        for position, target in enumerate(targets):
            key = _keyframe_before(index, target)
            jumped = seek and key > max(now, index.times[0]) + _TOLERANCE
            if jumped:
                container.seek(round(key / float(stream.time_base)), stream=stream)
                decoded = _decoded(container, stream)
            while now < target - _TOLERANCE:
                count, frame = next(decoded, (0, None))
                if frame is None:
                    return
                now = index.times[min(count, len(index.times) - 1)]
                if index.stamped and frame.pts is not None:
                    now = frame.pts * float(stream.time_base)
                if jumped and now > target + _TOLERANCE:
                    raise _SeekMissedError(position)
                jumped = False
                yield now, frame


def _keyframe_before(index: _Index, target: float) -> float:
    """Time of the last keyframe not after ``target``, else of the first frame."""
    position = bisect.bisect_right(index.keyframes, target + _TOLERANCE)
    return index.keyframes[position - 1] if position else index.times[0]


def _decoded(container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
    """Numbered frames from the present position on; damaged packets are skipped."""
    count = 0
    for packet in _readable(container.demux(stream)):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            logger.debug("skipped a damaged packet: %s", error)
            continue
        for frame in frames:
            yield count, frame
            count += 1


def _readable(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets up to the first place where the file itself cannot be read on."""
    try:
        yield from packets
    except av.error.FFmpegError as error:
        logger.debug("reading stopped early: %s", error)


def _picture(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """Upright RGB array; a stream that changes its size is scaled to its first frame's."""
    width, height = size
    picture = frame.to_ndarray(format="rgb24", width=width, height=height)
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarter_turns))
