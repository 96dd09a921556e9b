"""Addresses and cameras as live connections through FFmpeg."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from framefusion.asking.decoding.container import OPEN_SECONDS, has_end, opened, rate_of
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import Source, has_length, shortened
from framefusion.asking.streams.cameras import camera_of
from framefusion.asking.streams.live import Connect, Connection
from framefusion.asking.streams.pictures import decoded_frames

SCHEMES = ("http", "https", "rtmp", "rtmps", "rtsp", "rtsps", "udp")
"""Addresses that may be live."""

_OPTIONS = {"rtsp": {"rtsp_flags": "prefer_tcp"}, "rtsps": {"rtsp_flags": "prefer_tcp"}}
"""Options of protocols: over UDP, RTSP loses packets that nothing replaces."""

_SECRET = re.compile(r"(?<=://)[^/@]*@")


def to_address(address: str, scheme: str, options: Mapping[str, str], timeout: float) -> Connect:
    """Opens an address of one of :data:`SCHEMES`."""
    source = Source(name_of(address), address, remote=True)
    return _connect(source, None, {**_OPTIONS.get(scheme, {}), **options}, timeout)


def to_camera(given: str, options: Mapping[str, str], timeout: float) -> Connect:
    """Opens a camera.

    Raises:
        VideoError: see :func:`~framefusion.asking.streams.cameras.camera_of`.
    """
    camera = camera_of(given)
    return _connect(Source(camera.name, camera.location, remote=True), camera.format, dict(options), timeout)


def _connect(source: Source, format: str | None, options: dict[str, str], timeout: float) -> Connect:
    @contextmanager
    def connect() -> Iterator[Connection]:
        how = {"format": format, "options": options, "timeout": (max(timeout, OPEN_SECONDS), timeout)}
        with opened(source, "SLICE", endless=True, **how) as (container, stream):
            errors: list[BaseException] = []
            frames = decoded_frames(container, stream, errors.append)
            yield Connection(frames, 1 / rate_of(stream), has_end(container), errors)

    return connect


def is_file(address: str) -> bool:
    """Whether an ``http`` address is that of a file, which is read whole, and not of a broadcast."""
    try:
        known = has_length(address)
        if known is not None:
            return known
        with opened(Source(name_of(address), address, remote=True), endless=True) as (container, _):
            return has_end(container)
    except VideoError:
        return False  # FFmpeg knows more servers and passwords, or else says what is wrong


def name_of(address: str) -> str:
    """An address for messages: without a password."""
    return shortened(_SECRET.sub("", address))
