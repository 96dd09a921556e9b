"""Live sources: read in a thread of their own, so that frames are about now, and opened again when they are lost."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import av

from framefusion.asking.decoding.container import reason_of
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.streams.pictures import Decoded, sampled
from framefusion.asking.streams.sampling import Clock, Ticks
from framefusion.asking.streams.stream import Frame, Produce, Tally
from framefusion.asking.streams.waiting import Waiting

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds before the first attempt to open a lost connection again, doubled for each further one, and at most."""

STEADY = 60.0
"""Seconds for which frames have to come for the attempts to count from one again."""

_GRACE = 1.0
"""Seconds that a thread has to notice that it should end; one that waits for a packet ends when that wait does."""

_LOOK = 1.0
"""Seconds between looks of a waiting consumer, without which an interrupt would not reach it on every system."""


@dataclass(frozen=True)
class Connection:
    """A live source that was opened.

    Attributes:
        frames: what comes, until the connection is lost.
        step: seconds between frames, as it announces them.
        ends: whether the source announces a length: its end is no loss, and it begins again where it is opened again.
        errors: why it was lost, filled when it is.
    """

    frames: Iterator[Decoded]
    step: float
    ends: bool = False
    errors: list[BaseException] = field(default_factory=list)


Connect = Callable[[], AbstractContextManager[Connection]]
"""Opens a live source, or raises a ``VideoError``."""


def live_frames(name: str, connect: Connect, fps: float, reconnections: int, buffer: int) -> Produce:
    """Frames as they come: of more than ``buffer`` that nobody took, the oldest are dropped."""

    def produce(tally: Tally, waiting: Waiting) -> Iterator[Frame]:
        reader = _Reader(name, connect, fps, reconnections, buffer, tally, waiting)
        thread = threading.Thread(target=reader.run, name=f"stream {name}", daemon=True)
        thread.start()
        try:
            yield from reader.frames()
        except BaseException:
            waiting.stop()
            raise
        finally:
            thread.join(_GRACE)

    return produce


class _Reader:
    """What the thread does, and the queue between it and the consumer."""

    def __init__(
        self, name: str, connect: Connect, fps: float, reconnections: int, buffer: int, tally: Tally, waiting: Waiting
    ) -> None:
        self.name, self.connect, self.reconnections = name, connect, reconnections
        self.tally, self.waiting, self.buffer = tally, waiting, buffer
        self.clock, self.ticks = Clock(1 / fps), Ticks(fps)
        self.queue: deque[Frame] = deque()
        self.finished = False
        self.error: Exception | None = None
        self.began: float | None = None
        """When the first frame came, by the clock of the wait."""
        self.heard = 0.0
        """When the last frame came."""
        self.stamp: float | None = None
        """What the last frame carried."""

    def frames(self) -> Iterator[Frame]:
        """What the consumer gets; waits for it."""
        condition = self.waiting.condition
        while True:
            with condition:
                while not (self.queue or self.finished or self.waiting.stopped):
                    condition.wait(_LOOK)
                if self.waiting.stopped:
                    return
                if not self.queue:
                    break
                frame = self.queue.popleft()
            yield frame
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        """The thread: from connection to connection."""
        try:
            self._read()
        except Exception as error:
            self.error = error
        with self.waiting.condition:
            self.finished = True
            self.waiting.condition.notify_all()

    def _read(self) -> None:
        attempts = 0
        ends: bool | None = None
        while not self.waiting.stopped:
            opened = self.waiting.now()
            try:
                with self.connect() as connection:
                    if ends is False and connection.ends:
                        self.tally.end("the broadcast ended")  # and can be seen again from its beginning
                        return
                    ends = connection.ends
                    reason = self._take(connection)
                    if ends and not connection.errors:
                        self.tally.end("the source ended")
                        return
            except VideoError as error:
                if ends is None:
                    raise
                reason = str(error)
            except av.error.FFmpegError as error:
                reason = reason_of(error)
            if self.waiting.stopped:
                return
            if self.heard - opened >= STEADY:
                attempts = 0
            if attempts >= self.reconnections:
                plural = "" if attempts == 1 else "s"
                tried = f", and {attempts} attempt{plural} did not bring it back" if attempts else ""
                self.tally.end(f"the connection was lost ({reason}){tried}")
                logger.warning("%s: %s", self.name, self.tally.status.reason)
                return
            delay = min(FIRST_DELAY * 2**attempts, LONGEST_DELAY)
            attempts += 1
            logger.warning(
                "%s: the connection was lost (%s); attempt %d of %d to open it again in %g s",
                self.name, reason, attempts, self.reconnections, delay,
            )  # fmt: skip
            self.waiting.wait(delay)

    def _take(self, connection: Connection) -> str:
        """Read a connection to its end; the reason of it."""
        for frame in sampled(self._arriving(connection), self.clock, self.ticks, self.tally, self.waiting):
            self._put(frame)
        return reason_of(connection.errors[0]) if connection.errors else "it ended"

    def _arriving(self, connection: Connection) -> Iterator[Decoded]:
        """The new frames of a connection; without a length, the clock goes on with the first where it is by now."""
        first = True
        for frame in connection.frames:
            if first and connection.ends and self._was_shown(frame):
                continue
            now = self.waiting.now()
            if first:
                if self.began is None:
                    self.began = now
                else:
                    self.tally.add(reconnections=1, seconds_lost=now - self.heard)
                    logger.warning("%s: frames come again, after %.1f s without", self.name, now - self.heard)
                if not connection.ends:
                    self.clock.restart(now - self.began, connection.step)
                first = False
            self.heard, self.stamp = now, frame.stamp
            yield frame

    def _was_shown(self, frame: Decoded) -> bool:
        return frame.stamp is not None and self.stamp is not None and frame.stamp <= self.stamp

    def _put(self, frame: Frame) -> None:
        with self.waiting.condition:
            full = len(self.queue) >= self.buffer
            if full:
                self.queue.popleft()
            self.queue.append(frame)
            self.waiting.condition.notify_all()
        if full:
            if not self.tally.status.frames_dropped:
                logger.warning("%s: frames come faster than they are taken; older ones are dropped", self.name)
            self.tally.add(frames_dropped=1)
