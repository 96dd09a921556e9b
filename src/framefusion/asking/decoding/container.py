"""One container and its video stream, through PyAV."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import av

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import Source

logger = logging.getLogger(__name__)

FALLBACK_RATE = 25.0
"""Frames per second of a stream that does not say; FFmpeg takes the same."""

OPEN_SECONDS, READ_SECONDS = 20.0, 60.0
"""How long an address may take to answer, and to deliver the next packet."""

_TEXT_FORMATS = {"tty"}  # FFmpeg renders any text file as terminal video
_LIVE_FORMATS = {"hls", "dash", "rtsp", "sdp", "rtp"}
_CLOCK_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT
_WITHOUT_TIMES = 0x0080  # AVFMT_NOTIMESTAMPS
_UNALIGNED = 1  # AV_CODEC_FLAG_UNALIGNED


Failed = Callable[[BaseException], None]
"""Told why a container could not be read on."""


@contextmanager
def opened(
    source: Source, threads: str = "AUTO", *, endless: bool = False, file: Any = None, **how: Any
) -> Iterator[tuple[Any, Any]]:
    """The container and the video stream that a player would show.

    ``threads`` is ``"SLICE"`` where every frame counts: several frames at a time lose some beside a damaged one.
    ``endless`` allows a broadcast, ``file`` is an object whose ``read`` gives the bytes; ``av.open`` is given ``how``.

    Raises:
        VideoError: not a video, no video stream, an unknown codec, or a broadcast without an end.
    """
    try:
        how.setdefault("timeout", (OPEN_SECONDS, READ_SECONDS) if source.remote else None)
        container = av.open(source.location if file is None else file, **how)
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, UnicodeError) as error:
        raise VideoError(f"{source.name} is not a video that can be read ({reason_of(error)})") from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise VideoError(f"{source.name} is a text file, not a video")
        stream = _shown_stream(container)
        if stream is None:
            raise VideoError(f"{source.name} has no video stream")
        if stream.codec_context is None:
            raise VideoError(f"{source.name} is in a video codec that this build of FFmpeg cannot decode")
        if not endless and source.remote and without_end(container):
            raise VideoError(f"{source.name} is a broadcast without an end; record a part of it and name that file")
        stream.thread_type = threads
        # else FFmpeg leaves what is cropped on the left in place where memory would not be aligned
        stream.codec_context.flags |= _UNALIGNED
        yield container, stream


def _shown_stream(container: Any) -> Any:
    """The default stream if one is marked, as players choose; never a cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
    try:
        best = container.streams.best("video")
    except IndexError:  # a damaged MPEG-TS may announce streams that do not follow
        best = None
    marked = [stream for stream in streams if best is not None and stream.index == best.index]
    return next(iter(marked + streams), None)


def without_end(container: Any) -> bool:
    """Whether it is a broadcast."""
    return container.duration is None and container.format.name in _LIVE_FORMATS


def has_end(container: Any) -> bool:
    """Whether it announces how long it is. Of formats that join pieces, but for playlists, that is a guess."""
    known = container.duration is not None and container.duration > 0
    return known and (container.format.name in _LIVE_FORMATS or not clock_may_jump(container))


def clock_may_jump(container: Any) -> bool:
    """Whether pieces of such a format are joined as they are, each with a clock of its own."""
    return bool(int(container.format.flags) & _CLOCK_MAY_JUMP)


def counts_frames(container: Any) -> bool:
    """Whether the format knows a rate and an order, but no time at which each frame is shown."""
    return container.format.name == "avi" or bool(int(container.format.flags) & _WITHOUT_TIMES)


def rate_of(stream: Any) -> float:
    """Frames per second as the stream announces them, else :data:`FALLBACK_RATE`."""
    return float(stream.guessed_rate or stream.average_rate or FALLBACK_RATE)


def readable(container: Any, stream: Any, failed: Failed | None = None) -> Iterator[Any]:
    """Packets of a stream up to the first place where the file itself cannot be read on; ``failed`` is told why."""
    found = True
    while found:
        found = False
        try:
            for packet in container.demux(stream):
                found = True
                yield packet
            return
        except IndexError:
            # PyAV stumbles over a stream that begins in the middle of a file, and can go on behind it.
            logger.debug("a further stream begins")
        except (av.error.FFmpegError, OSError) as error:
            logger.debug("reading stopped early: %s", error)
            if failed is not None:
                failed(error)
            return


def reason_of(error: BaseException) -> str:
    """What FFmpeg says, in lower case, without the name of the file."""
    if isinstance(error, av.error.ExitError):
        return "nothing came in time"
    return (getattr(error, "strerror", None) or str(error)).lower()
