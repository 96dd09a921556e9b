"""The frames of an open container, one after the other."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from framefusion.asking.decoding.container import Failed, counts_frames, rate_of
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.pixels import Painter, shown_size
from framefusion.asking.decoding.timeline import JOIN, WHOLE, Damage, decoded
from framefusion.asking.streams.sampling import Clock, Ticks
from framefusion.asking.streams.stream import Frame, Tally
from framefusion.asking.streams.waiting import Waiting

_HELD_BACK = 32
"""Numbers that wait for their frames at most: twice as many as the frames that a decoder can hold back."""


@dataclass(frozen=True)
class Decoded:
    """A frame that was decoded and not yet drawn.

    Attributes:
        stamp: seconds on the clock of the container; None if it does not say.
        draw: makes the upright RGB picture, uint8 ``(H, W, 3)``.
        intact: False if it is damaged, or may refer to a damaged one.
    """

    stamp: float | None
    draw: Callable[[], np.ndarray]
    intact: bool = True


def decoded_frames(container: Any, stream: Any, failed: Failed | None = None) -> Iterator[Decoded]:
    """Every frame from the present position on, in the order in which they are shown.

    ``failed`` is told why the container could not be read on, if that is how it ended.
    """
    numbers = _Numbers(float(stream.time_base) * rate_of(stream)) if counts_frames(container) else None
    damaged, painter = _Damaged(), Painter(stream)
    held: list[Any] = []
    for event in decoded(container, stream, failed):
        if isinstance(event, Damage):
            damaged.lost(event.stamp)
            if numbers is not None:
                numbers.lost(event.stamp)
        elif isinstance(event, av.Packet):
            damaged.packet(event)
            if numbers is not None:
                numbers.put(event.pts)
        else:
            held.append(event)
        if not damaged.doubtful:
            yield from (_decoded(frame, painter, numbers, damaged) for frame in held)
            held.clear()
    damaged.settle()
    yield from (_decoded(frame, painter, numbers, damaged) for frame in held)
    if damaged.tail and failed is not None:
        failed(VideoError("the rest cannot be decoded"))


def _decoded(frame: Any, painter: Painter, numbers: _Numbers | None, damaged: _Damaged) -> Decoded:
    stream = painter.stream
    stamp = frame.pts if numbers is None else numbers.take()
    seconds = None if stamp is None else float(stamp * stream.time_base)

    def draw() -> np.ndarray:
        # Frames stay with whoever takes them; a copy, so that the filters need no memory for each of them.
        return np.array(painter.picture(frame, shown_size(frame, stream)), order="C")

    return Decoded(seconds, draw, damaged.intact(frame))


class _Numbers:
    """Numbers of frames in place of times. A decoder mixes them up, but gives frames in the order of being shown.

    Args:
        unit: frames per unit of the stream's clock.
    """

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self._numbers: list[int] = []
        self._first: int | None = None
        self._last: int | None = None

    def put(self, number: int | None) -> None:
        """Note the number of a packet."""
        if number is not None:
            heapq.heappush(self._numbers, number)
            if len(self._numbers) > _HELD_BACK:
                heapq.heappop(self._numbers)

    def lost(self, number: int | None) -> None:
        """No frame will have this number."""
        if number in self._numbers:
            self._numbers.remove(number)
            heapq.heapify(self._numbers)

    def take(self) -> int | None:
        """That of the next frame that is shown; None if it is not a later frame's."""
        number = heapq.heappop(self._numbers) if self._numbers else None
        if number is None or (self._last is not None and number <= self._last):
            return None
        self._first = number if self._first is None else self._first
        frames = (number - self._first) * self.unit
        if abs(frames - round(frames)) > WHOLE:
            return None
        self._last = number
        return number


class _Damaged:
    """Damage reaches from where a packet is lost, or a frame damaged, to the next key frame.

    A demuxer marks packets beside a loss and beside a join, behind which a key frame follows at once; until that is
    known, :attr:`doubtful` is not empty. :attr:`tail` says whether something was lost since the last frame.
    """

    def __init__(self) -> None:
        self.doubtful: list[int | None] = []
        self._lost: list[int | None] = []
        self._packets = 0
        self._reaches = False
        self.tail = False

    def packet(self, packet: Any) -> None:
        """Look at the next packet."""
        self._packets += 1
        if packet.is_keyframe:
            self.doubtful.clear()
        elif self._packets > JOIN:
            self.settle()
        if packet.is_corrupt:
            self.doubtful.append(packet.pts)
            self._packets = 1

    def settle(self) -> None:
        """No join followed."""
        self._lost += self.doubtful
        self.doubtful.clear()

    def lost(self, stamp: int | None) -> None:
        """The frame due at ``stamp`` is missing."""
        self.tail = True
        self._lost.append(stamp)

    def intact(self, frame: Any) -> bool:
        """Whether a frame, the next that is shown, is neither damaged nor refers to damaged ones."""
        self.tail = False
        begun = [stamp for stamp in self._lost if None in (stamp, frame.pts) or stamp <= frame.pts]
        self._lost = [stamp for stamp in self._lost if stamp not in begun]
        self._reaches = bool(frame.is_corrupt) or (not frame.key_frame and (self._reaches or bool(begun)))
        return not self._reaches


def sampled(frames: Iterable[Decoded], clock: Clock, ticks: Ticks, tally: Tally, waiting: Waiting) -> Iterator[Frame]:
    """The frames that are due, drawn; all of them are counted. Ends when the stream is stopped."""
    for frame in frames:
        if waiting.stopped:
            return
        time = clock.time(frame.stamp)
        tally.add(frames_decoded=1)
        if ticks.due(time):
            yield Frame(frame.draw(), time, frame.intact)
