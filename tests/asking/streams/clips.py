"""Small files that PyAV writes, and a clock for those who wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from framefusion.asking.streams.stream import Stream
from framefusion.asking.streams.waiting import Waiting
from tests.asking.media.corpus import number_of, picture

MILLISECOND = Fraction(1, 1000)


def write(
    path: Path,
    times: Sequence[float],
    numbers: Iterable[int] | None = None,
    *,
    codec: str = "mpeg4",
    size: tuple[int, int] = (160, 96),
    options: dict[str, str] | None = None,
) -> Path:
    """A clip of numbered pictures, each shown at its time in seconds; a key frame every five."""
    with av.open(str(path), "w", options=options or {}) as out:
        stream = out.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        stream.codec_context.gop_size = 5
        stream.codec_context.max_b_frames = 0
        stream.codec_context.bit_rate = 4_000_000
        for number, time in zip(numbers or range(len(times)), times, strict=False):
            frame = av.VideoFrame.from_ndarray(picture(number % 256, *size), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), MILLISECOND
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def evenly(count: int, rate: float = 10) -> list[float]:
    """So many times at a rate."""
    return [position / rate for position in range(count)]


def numbers_of(stream: Stream) -> list[int]:
    """What the pictures of a stream say, to its end."""
    return [number_of(frame.pixels) for frame in stream]


def array(number: int = 0, size: tuple[int, int] = (16, 8)) -> np.ndarray:
    """A picture that is all one number."""
    return np.full((size[1], size[0], 3), number % 256, np.uint8)


class Hurried(Waiting):
    """A clock on which only waiting takes time, and no wait takes any: ``between`` is called instead."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.seconds = 0.0
        self.between = between

    def now(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.between()
