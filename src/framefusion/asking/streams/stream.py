"""A stream as its user sees it: an iterator of frames with a state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType

import av
import numpy as np

from framefusion.asking.decoding.container import reason_of
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.streams.waiting import Waiting

logger = logging.getLogger(__name__)

STOPPED = "stopped"
"""The reason of a stream that its user ended."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a stream.

    Attributes:
        pixels: uint8 array ``(H, W, 3)``, RGB, upright, with square pixels; the size may change within a stream.
        timestamp: seconds on the clock of the stream, which ascends; 0 at its first frame, unless whoever gave the
            frames gave other times.
        intact: False if the frame is damaged, or may refer to a damaged one.
    """

    pixels: np.ndarray = field(repr=False)
    timestamp: float
    intact: bool = True


@dataclass(frozen=True)
class StreamStatus:
    """How a stream is doing.

    Attributes:
        frames_decoded: frames that came.
        frames_given: frames that the stream gave.
        frames_damaged: how many of those were damaged.
        frames_dropped: frames of a live source that were due and had to make room for newer ones, because nobody took
            them.
        reconnections: how often a lost connection was opened again, and frames came.
        seconds_lost: seconds without frames in these.
        ended: whether no further frame will come.
        reason: why, as a few words; empty before.
    """

    frames_decoded: int = 0
    frames_given: int = 0
    frames_damaged: int = 0
    frames_dropped: int = 0
    reconnections: int = 0
    seconds_lost: float = 0.0
    ended: bool = False
    reason: str = ""


class Tally:
    """The status of a stream while it changes, from any thread."""

    def __init__(self) -> None:
        self.status = StreamStatus()
        self._lock = threading.Lock()

    def add(self, **counts: float) -> None:
        """Add to fields of the status."""
        with self._lock:
            sums = {name: getattr(self.status, name) + count for name, count in counts.items()}
            self.status = replace(self.status, **sums)

    def end(self, reason: str) -> None:
        """Note why the stream ended; the first reason stays."""
        with self._lock:
            if not self.status.ended:
                self.status = replace(self.status, ended=True, reason=reason)


Produce = Callable[[Tally, Waiting], Iterator[Frame]]
"""Gives the frames that are due. Notes in the tally what it decodes and drops, and why it ends; ends when the stream is
stopped, and closes what it opened when it is closed."""


class Stream:
    """Frames one after the other; a context manager and an iterator, made by
    :func:`~framefusion.asking.streams.open_stream`.

    Only :meth:`stop` and :attr:`status` may be used from other threads.
    """

    def __init__(self, name: str, produce: Produce, waiting: Waiting | None = None) -> None:
        self.name = name
        self._waiting = waiting or Waiting()
        self._tally = Tally()
        self._frames = produce(self._tally, self._waiting)

    def __repr__(self) -> str:
        return f"<Stream {self.name}: {self.status}>"

    @property
    def status(self) -> StreamStatus:
        """Counts up to now."""
        return self._tally.status

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Frame:
        """The next frame; waits for it.

        Raises:
            VideoError: the source cannot be read, or ended before its first frame.
        """
        if self._waiting.stopped:
            self.close()
            raise StopIteration
        try:
            frame = next(self._frames)
        except StopIteration:
            self._tally.end(STOPPED if self._waiting.stopped else "the source ended")
            if not self.status.frames_given and not self._waiting.stopped:
                raise VideoError(f"{self.name} gave no frame ({self.status.reason})") from None
            raise
        except av.error.FFmpegError as error:
            self._tally.end(reason_of(error))
            raise VideoError(f"{self.name} cannot be read ({reason_of(error)})") from error
        except Exception as error:
            self._tally.end(str(error))
            raise
        self._tally.add(frames_given=1, frames_damaged=int(not frame.intact))
        return frame

    def stop(self) -> None:
        """End the iteration soon, from any thread: frames that wait to be taken are not given any more."""
        self._waiting.stop()

    def close(self) -> None:
        """Stop, and close what is open. Frames that were given stay valid."""
        self.stop()
        self._tally.end(STOPPED)
        self._frames.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
