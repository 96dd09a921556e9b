"""When frames are shown, as far as those before them tell, and which of them are given."""

from __future__ import annotations

import math

from framefusion.asking.decoding.timeline import JUMP, TOLERANCE

_NUDGE = 0.1
"""Share of a frame by which one whose stamp is too early follows the one before."""

_REORDERED = 16
"""Frames that a decoder can hold back at most, and so those that damage can bring into disorder."""


class Clock:
    """Puts the stamps of frames, in the order in which they are shown, on one ascending clock that begins at 0.

    A missing stamp is one frame after the one before. A stamp that is not after the one before is a disorder, which
    moves that frame alone; if it lies :data:`~framefusion.asking.decoding.timeline.JUMP` seconds back, or many follow
    each other, it is another clock, which goes on where the last one was.

    Args:
        step: seconds from one frame to the next where nothing else tells.

    Attributes:
        first: the first stamp that was given, on the clock that it was given in.
        last: seconds at which the last frame is shown.
    """

    def __init__(self, step: float) -> None:
        self.step = step
        self.first: float | None = None
        self.last: float | None = None
        self._begin = 0.0
        self._offset: float | None = None
        self._late = 0

    def restart(self, seconds: float, step: float) -> None:
        """What follows has a clock of its own; it begins at ``seconds``, or a frame after the last if that is later."""
        self.step, self._begin, self._offset = step, seconds, None

    def time(self, stamp: float | None) -> float:
        """Seconds from the first frame at which the next one is shown, which carries ``stamp`` (seconds)."""
        now = self._begin if self.last is None else max(self.last + self.step, self._begin)
        if self.first is None:
            self.first = stamp
        if stamp is not None and self._offset is not None:
            told = stamp + self._offset
            self._late = 0 if self.last is None or told > self.last else self._late + 1
            if self.last is None or not self._late:
                now = told
            elif self._late > _REORDERED or self.last - told > JUMP:
                self._offset, self._late = now - stamp, 0
            else:
                now = self.last + _NUDGE * self.step
        elif stamp is not None:
            self._offset = now - stamp
        self.last = now
        return now

    @property
    def end(self) -> float:
        """Seconds at which the last frame ends."""
        return 0.0 if self.last is None else self.last + self.step


class Ticks:
    """Chooses at most ``fps`` frames a second, each once: those nearest to the ticks of an even clock.

    Whether the next frame will be nearer is told by the gap to the one before. A frame that stays for long is not
    given again.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._origin = 0.0
        self._before: float | None = None
        self._due = 0

    def due(self, time: float) -> bool:
        """Whether the frame shown at ``time``, which ascends from call to call, is given."""
        if self._before is None:
            self._origin = time
        position = (time - self._origin) * self.fps
        gap = 0.0 if self._before is None else position - self._before
        self._before = position
        if position < self._due - TOLERANCE and position + gap / 2 <= self._due + TOLERANCE:
            return False
        self._due = max(self._due, math.floor(position + TOLERANCE)) + 1
        return True
