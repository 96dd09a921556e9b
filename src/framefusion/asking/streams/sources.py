"""What a source is, and how its frames are read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import check_source, scheme_of, shortened
from framefusion.asking.streams.cameras import is_camera
from framefusion.asking.streams.connections import SCHEMES, is_file, name_of, to_address, to_camera
from framefusion.asking.streams.files import file_frames, followed_frames
from framefusion.asking.streams.given import NAME, given_frames
from framefusion.asking.streams.growing import check_growing
from framefusion.asking.streams.live import Connect, live_frames
from framefusion.asking.streams.stream import Frame, Produce, Stream, Tally
from framefusion.asking.streams.waiting import Waiting
from framefusion.checks import check_flag, check_number, check_whole

_WEB = ("http", "https")
_MOST_FPS = 1e6


def open_stream(
    source: str | os.PathLike[str] | Iterable[Any],
    fps: float = 1.0,
    *,
    follow: bool = False,
    idle: float = 30.0,
    reconnections: int = 5,
    timeout: float = 10.0,
    buffer: int = 4,
    options: Mapping[str, str] | None = None,
    waiting: Waiting | None = None,
) -> Stream:
    """Frames of a source, one after the other, in memory that does not grow.

    Nothing is opened before the first frame is asked for. A file or an iterator is read in the thread that asks for
    frames, and none of its frames is dropped. Of a live source (an address without a known length, or a camera), a
    thread reads what comes; of frames that nobody takes, the oldest are dropped.

    Args:
        source: a file, folder or ``"-"`` as :func:`~framefusion.asking.media.read_media` takes them; an ``http``,
            ``https``, ``rtmp``, ``rtmps``, ``rtsp``, ``rtsps`` or ``udp`` address; a camera, as ``/dev/video0``,
            ``camera:0`` or ``camera:NAME``; or an iterable of ``(H, W, 3)`` uint8 arrays, PIL images or pairs
            ``(seconds, frame)``. An ``http`` address of a file is fetched and read as a file.
        fps: frames per second, at most: those nearest to the ticks of an even clock, each once. Iterated frames without
            times are ``1 / fps`` apart.
        follow: the file is still being written; at its end, wait for more.
        idle: seconds without anything new after which a followed file is taken to be whole; ``math.inf``: never.
        reconnections: attempts in a row to open a lost live source again, after 1, 2, 4, … 30 s. They count from one
            again after a connection that held for a minute.
        timeout: seconds without a packet after which a live source is lost.
        buffer: frames of a live source that wait to be taken, at most.
        options: of FFmpeg for a protocol or device, such as ``{"video_size": "1280x720"}`` for a camera.
        waiting: the clock to wait by; for tests.

    Raises:
        VideoError: no such source, or one that cannot be followed. While frames are taken: it cannot be read, or ended
            before its first frame. A source that is lost later ends the stream, and its status says why.
        ArgumentError: a number out of its range.
    """
    check_number("fps", fps, 0, _MOST_FPS, open_below=True)
    check_flag("follow", follow)
    check_number("idle", idle, 0, math.inf, open_below=True)
    check_whole("reconnections", reconnections, "attempts", 0)
    check_number("timeout", timeout, 0, math.inf, open_below=True)
    check_whole("buffer", buffer, "frames", 1)
    if not isinstance(source, str | bytes | os.PathLike):
        if not isinstance(source, Iterable):
            kind = type(source).__name__
            raise VideoError(f"a source must be a path, an address or an iterable of frames, got {kind}")
        if follow:
            raise VideoError("follow=True is for a file that grows, and an iterator is none")
        return Stream(NAME, given_frames(source, fps), waiting)
    text = os.fspath(source)
    if not isinstance(text, str):
        raise VideoError(f"the path of a source must be a text, got {type(text).__name__}")
    connect = _connect(text, options or {}, timeout)
    if follow and connect is not None:
        raise VideoError(f"follow=True is for a file that grows, and {name_of(text)} is none")
    if connect is not None:
        live = live_frames(name_of(text), connect, fps, reconnections, buffer)
        return Stream(name_of(text), _web(text, fps, live) if scheme_of(text) in _WEB else live, waiting)
    if follow:
        check_growing(text)
        return Stream(shortened(text), followed_frames(text, fps, idle), waiting)
    return Stream(shortened(check_source(text)), file_frames(text, fps), waiting)


def _connect(source: str, options: Mapping[str, str], timeout: float) -> Connect | None:
    """What opens a live source; None for a path.

    Raises:
        VideoError: an address of another kind, or no such camera.
    """
    scheme = scheme_of(source)
    if scheme in SCHEMES:
        return to_address(source, scheme, options, timeout)
    if scheme is not None:
        raise VideoError(f"{shortened(source)} is not an address that can be read; {', '.join(SCHEMES)} are")
    return to_camera(source, options, timeout) if is_camera(source) else None


def _web(address: str, fps: float, live: Produce) -> Produce:
    """An address that names a file is read as one, and no frame of it dropped."""

    def produce(tally: Tally, waiting: Waiting) -> Iterator[Frame]:
        yield from (file_frames(address, fps) if is_file(address) else live)(tally, waiting)

    return produce
