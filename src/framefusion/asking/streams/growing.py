"""A file that is still being written, read as it grows."""

from __future__ import annotations

import os

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import shortened
from framefusion.asking.streams.waiting import Waiting

POLL = 0.1
"""Seconds between looks at a file that has no more."""

_BOXES = (b"ftyp", b"styp", b"free", b"skip", b"wide", b"uuid", b"pdin")
"""What may stand before the index of an MP4 or QuickTime file."""

_FARTHEST = 2**20
"""Bytes within which the index, or what stands in its place, is looked for."""


class Growing:
    """The bytes of a file for a demuxer, which cannot seek in it: at the end it waits for more.

    Args:
        path: of the file, which is there and may be empty.
        name: what messages call it.
        idle: seconds without anything new after which the file is taken to be whole.
        waiting: its clock, and whether the stream is stopped.

    Attributes:
        ended: whether the demuxer was told that there is no more.
        interrupt: what interrupted a wait, which cannot pass through the demuxer; to be raised again behind it.
    """

    def __init__(self, path: str, name: str, idle: float, waiting: Waiting) -> None:
        self.name, self.idle, self.waiting = name, idle, waiting
        self.ended = False
        self.interrupt: BaseException | None = None
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by the container, and by close()
        self._head: bytes | None = b""

    def read(self, size: int) -> bytes:
        """Between 1 and ``size`` bytes, or none at the end.

        Raises:
            VideoError: the container cannot be read before it is whole.
        """
        try:
            data = b"" if self.ended else self._next(size)
        except Exception:
            self.ended = True
            raise
        except BaseException as interrupt:
            self.interrupt, data = interrupt, b""
            self.waiting.stop()
        self.ended = not data
        return data

    def _next(self, size: int) -> bytes:
        quiet = self.waiting.now()
        while not (data := self._file.read(size)):
            if self.waiting.stopped or self.waiting.now() - quiet >= self.idle:
                return b""
            self.waiting.wait(POLL)
        if self._head is not None:
            self._head += data
            self._check_index()
        return data

    def _check_index(self) -> None:
        """Refuse an MP4 whose index follows its frames, as soon as its first boxes tell."""
        assert self._head is not None
        position = 0
        while len(self._head) >= position + 8:
            kind = self._head[position + 4 : position + 8]
            if kind == b"mdat":
                raise VideoError(
                    f"{self.name} is an MP4 whose index comes at its end, which cannot be read while it grows; write "
                    "MPEG-TS, Matroska or fragmented MP4 (movflags=frag_keyframe+empty_moov), "
                    "or read it when it is whole"
                )
            if kind not in _BOXES:
                break
            if position > _FARTHEST:
                break
            position += max(int.from_bytes(self._head[position : position + 4], "big"), 8)
        else:
            return  # not yet known
        self._head = None

    def close(self) -> None:
        self._file.close()

    @property
    def reason(self) -> str:
        """Why it ended."""
        return f"nothing came for {self.idle:g} s"


def check_growing(given: str) -> None:
    """Refuse what cannot be followed.

    Raises:
        VideoError: no such file, not a file, or one that may not be read.
    """
    if not os.path.exists(given):
        raise VideoError(f"no such file: {shortened(given)}; one that is followed has to be there, empty or not")
    if not os.path.isfile(given):
        raise VideoError(f"follow=True is for a file that grows, and {shortened(given)} is none")
    if not os.access(given, os.R_OK):
        raise VideoError(f"{shortened(given)} cannot be opened (permission denied)")
