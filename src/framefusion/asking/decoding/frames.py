"""The pictures of chosen frames: by seeking where packets told the times, else by decoding from the beginning."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np

from framefusion.asking.decoding.container import opened
from framefusion.asking.decoding.errors import IrregularError, VideoError
from framefusion.asking.decoding.pictures import Fit, Pictures
from framefusion.asking.decoding.pixels import Painter, shown_size
from framefusion.asking.decoding.source import Source
from framefusion.asking.decoding.timeline import Damage, PacketIndex, decoded

_SEEKS = 3
"""How many key frames further back is looked where a seek lands behind the one that was asked for."""


def sought(source: Source, index: PacketIndex, wanted: Sequence[int], fit: Fit | None = None) -> np.ndarray:
    """RGB pictures ``(len(wanted), H, W, 3)`` of ascending, different positions.

    Only what these refer to is decoded. Every decoded frame is compared with the index, and so are the first and the
    last frame of the file.

    Raises:
        IrregularError: the decoder shows something else than the packets told.
        VideoError: the pictures would take more than :data:`~framefusion.asking.decoding.pictures.MAX_BYTES`.
    """
    last = len(index.stamps) - 1
    needed = set(wanted)
    with opened(source) as (container, stream):
        pictures = _Drawn(len(wanted), stream, fit)
        position = -1
        frames = _frames(container, stream)
        for target in sorted({0, *wanted, last}):
            key = bisect.bisect_left(index.stamps, index.key_before(index.stamps[target]))
            if key > position + 1:
                frames = _from_key(container, stream, index, target)
                position = key - 1
            while position < target:
                frame = next(frames, None)
                position += 1
                if frame is None or frame.pts != index.stamps[position] or frame.is_corrupt:
                    raise IrregularError
                if position in needed or position == 0:
                    pictures.add(frame, keep=position in needed)
        if next(frames, None) is not None:
            raise IrregularError
        return pictures.array()


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    for event in decoded(container, stream):
        if isinstance(event, Damage):
            raise IrregularError
        if isinstance(event, av.VideoFrame):
            yield event


def _from_key(container: Any, stream: Any, index: PacketIndex, target: int) -> Iterator[Any]:
    """Frames from the key frame before ``target`` on; seeks may land too late, so earlier places are tried as well."""
    key = index.key_before(index.stamps[target])
    for back in range(_SEEKS):
        try:
            container.seek(index.key_before(key, back), stream=stream)
        except (av.error.FFmpegError, OSError) as error:
            raise IrregularError from error
        frames = _frames(container, stream)
        first = next((frame for frame in frames if frame.pts is None or frame.pts >= key), None)
        if first is not None and first.pts == index.stamps[bisect.bisect_left(index.stamps, key)]:
            yield first
            yield from frames
            return
    raise IrregularError


def read_through(source: Source, wanted: Sequence[int], fit: Fit | None = None) -> np.ndarray:
    """RGB pictures ``(len(wanted), H, W, 3)`` of ascending, different positions, decoded from the beginning.

    Raises:
        VideoError: the pictures would take more than :data:`~framefusion.asking.decoding.pictures.MAX_BYTES`, or the
            file has become shorter meanwhile.
    """
    remaining = list(wanted)
    with opened(source, threads="SLICE") as (container, stream):
        pictures = _Drawn(len(wanted), stream, fit)
        frames = (event for event in decoded(container, stream) if isinstance(event, av.VideoFrame))
        for position, frame in enumerate(frames):
            if position == 0 or position == remaining[0]:
                pictures.add(frame, keep=position == remaining[0])
            if position == remaining[0]:
                remaining.pop(0)
            if not remaining:
                return pictures.array()
    raise VideoError(f"{source.name} changed while it was read")


class _Drawn:
    """Pictures of decoded frames, of the size of the first frame of the stream."""

    def __init__(self, count: int, stream: Any, fit: Fit | None) -> None:
        self.stream, self.painter = stream, Painter(stream)
        self.size: tuple[int, int] | None = None
        self.pictures = Pictures(count, fit)

    def add(self, frame: Any, keep: bool) -> None:
        if self.size is None:
            self.size = shown_size(frame, self.stream)
        if keep:
            self.pictures.add(self.painter.picture(frame, self.size))

    def array(self) -> np.ndarray:
        return self.pictures.array()
