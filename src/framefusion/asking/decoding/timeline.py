"""Which frames a file shows and when, from its packets alone where they tell, else by decoding all of it."""

from __future__ import annotations

import bisect
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av
import numpy as np

from framefusion.asking.decoding.container import Failed, clock_may_jump, counts_frames, opened, rate_of, readable
from framefusion.asking.decoding.errors import IrregularError, VideoError
from framefusion.asking.decoding.source import Source

logger = logging.getLogger(__name__)

TOLERANCE = 1e-6
"""Seconds; finer than any container's clock."""

JUMP, _STEP_BACK = 10.0, 0.1
"""Seconds that a clock may run ahead of, or fall behind, what its last packet promised, before it counts as another
clock. They are those of the ``ffmpeg`` command."""

WHOLE = 0.01
"""How far a number of frames may be from a whole one."""

_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")

JOIN = 3
"""Packets at most between the one that a demuxer marks at a join and the first of the next piece."""


@dataclass(frozen=True)
class Timeline:
    """The frames that a file shows, in the order in which it shows them.

    Attributes:
        times: float64 ``(T,)``, ascending seconds on the clock of the stream.
        duration: seconds from the first frame to the end of the last.
        announced: seconds that the headers promise, 0 when they say nothing.
        intact: bool ``(T,)``, frames that neither are damaged nor refer to damaged ones.
    """

    times: np.ndarray
    duration: float
    announced: float
    intact: np.ndarray

    @property
    def rate(self) -> float:
        """Mean number of frames a second."""
        return len(self.times) / self.duration

    def choose(self, count: int) -> list[int]:
        """Positions of the frames on display at the middle of ``count`` equal intervals; all, if there are fewer."""
        if count >= len(self.times):
            return list(range(len(self.times)))
        middles = self.times[0] + (np.arange(count) + 0.5) * self.duration / count
        # Times carry rounding of the container's clock; a frame due within the tolerance is on display.
        return (np.searchsorted(self.times, middles + TOLERANCE, side="right") - 1).tolist()


@dataclass(frozen=True)
class PacketIndex:
    """A timeline read off the packets.

    Attributes:
        timeline: of the file.
        stamps: int, display time of each frame in units of the stream, ascending.
        keys: those of frames that refer to no other, ascending.
    """

    timeline: Timeline
    stamps: list[int]
    keys: list[int]

    def key_before(self, stamp: int, back: int = 0) -> int:
        """The last key frame not after ``stamp``, or one that lies ``back`` key frames earlier."""
        return self.keys[max(bisect.bisect_right(self.keys, stamp) - 1 - back, 0)]


def index_of(source: Source) -> PacketIndex:
    """Read every packet without decoding it.

    Raises:
        VideoError: the file cannot be read, or has no packets.
        IrregularError: the packets do not tell; :func:`decoded_timeline` does.
    """
    stamps: list[int | None] = []
    keys: list[int] = []
    last, last_duration = None, 0
    with opened(source) as (container, stream):
        base, rate = float(stream.time_base), rate_of(stream)
        regular = not counts_frames(container)
        jumps = _Jumps(stream, clock_may_jump(container))
        for packet in readable(container, stream):
            if not packet.size:
                continue
            if jumps.shift(packet) or packet.is_corrupt:
                regular = False
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
            if packet.is_discard:
                continue  # cut off by an edit list, but others may refer to it
            stamps.append(packet.pts)
            if packet.pts is not None and (last is None or packet.pts >= last):
                last, last_duration = packet.pts, packet.duration or 0
        announced = announced_seconds(container, stream, stamps)
    if not stamps:
        raise VideoError(f"{source.name} contains no frames")
    known = sorted(stamp for stamp in stamps if stamp is not None)
    if not regular or len(set(known)) < len(stamps) or not keys or min(keys) > known[0]:
        raise IrregularError
    duration = (known[-1] - known[0]) * base + (last_duration * base or 1 / rate)
    times = np.array(known) * base
    return PacketIndex(Timeline(times, duration, announced, np.ones(len(known), bool)), known, sorted(keys))


def decoded_timeline(source: Source) -> Timeline:
    """Decode the whole file and note what it shows.

    Raises:
        VideoError: the file cannot be read, or no frame can be decoded.
    """
    stamps: list[int | None] = []
    keys: list[bool] = []
    corrupt: list[bool] = []
    durations: dict[int | None, int] = {}
    packet_keys: list[bool] = []
    lost: list[tuple[int, int | None]] = []
    doubtful: list[tuple[int, int, int | None]] = []
    with opened(source, threads="SLICE") as (container, stream):
        base, rate = float(stream.time_base), rate_of(stream)
        counted = counts_frames(container)
        for event in decoded(container, stream):
            if isinstance(event, Damage):
                lost.append((len(stamps), event.stamp))
            elif isinstance(event, av.Packet):
                durations[event.pts] = event.duration or 0
                packet_keys.append(event.is_keyframe)
                if event.is_corrupt:
                    doubtful.append((len(packet_keys), len(stamps), event.pts))
            else:
                stamps.append(event.pts)
                keys.append(bool(event.key_frame))
                corrupt.append(bool(event.is_corrupt))
        announced = announced_seconds(container, stream, stamps)
    if not stamps:
        raise VideoError(f"{source.name} contains no frame that can be decoded; it is damaged or encrypted")
    times = _times(stamps, base, rate, counted)
    last = 0.0 if counted else durations.get(stamps[-1], 0) * base
    duration = float(times[-1] - times[0]) + (last or 1 / rate)
    if not counted and stamps[0] is not None:
        # A tail that cannot be decoded is missing as one that was cut off is, also where no header tells of it.
        ends = [stamp + length for stamp, length in durations.items() if stamp is not None]
        announced = max(announced, (max(ends, default=0) - stamps[0]) * base)
    # A join breaks the numbering of packets as a loss does; behind it comes a key frame.
    lost += [(due, stamp) for packet, due, stamp in doubtful if not any(packet_keys[packet : packet + JOIN])]
    begins = [due if stamp is None or counted else _position(stamps, stamp) for due, stamp in lost]
    return Timeline(times, duration, announced, _intact(keys, corrupt, begins))


@dataclass(frozen=True)
class Damage:
    """A packet that cannot be decoded; ``stamp`` is when its frame was due, if that is known."""

    stamp: int | None


def decoded(container: Any, stream: Any, failed: Failed | None = None) -> Iterator[Any]:
    """Everything from the present position on: each packet, then the frames that it completes, or :class:`Damage`.

    Stamps are those of one clock, also where the container joins pieces with clocks of their own. ``failed`` is told
    why the container could not be read on, if that is how it ended.
    """
    jumps = _Jumps(stream, clock_may_jump(container))
    flushed = False
    for packet in readable(container, stream, failed):
        flushed = not packet.size
        if packet.size:
            jumps.shift(packet)
            yield packet
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            logger.debug("a packet cannot be decoded: %s", error)
            yield Damage(packet.pts)
            continue
        yield from frames
    if not flushed:
        try:
            yield from stream.codec_context.decode(None)
        except av.error.FFmpegError as error:
            logger.debug("the last frames cannot be decoded: %s", error)


class _Jumps:
    """Puts packets on one clock where a format allows several: joined recordings restart it, or jump ahead."""

    def __init__(self, stream: Any, allowed: bool) -> None:
        self.base, self.allowed = float(stream.time_base), allowed
        self.step = round(1 / rate_of(stream) / self.base)
        self.offset = 0
        self.expected: int | None = None
        self.last = 0

    def shift(self, packet: Any) -> bool:
        """Move a packet's stamps; whether any were moved."""
        if not self.allowed or packet.dts is None:
            return False
        stamp = packet.dts + self.offset
        if self.expected is not None:
            ahead = (stamp - self.expected) * self.base
            if abs(ahead) > JUMP or (self.last - stamp) * self.base > _STEP_BACK:
                self.offset -= stamp - self.expected
                stamp = self.expected
        self.last, self.expected = stamp, stamp + (packet.duration or self.step)
        if not self.offset:
            return False
        packet.dts = stamp
        if packet.pts is not None:
            packet.pts += self.offset
        return True


def announced_seconds(container: Any, stream: Any, stamps: list[int | None]) -> float:
    """Seconds that the headers of the stream promise, 0 when they say nothing; ``stamps`` are those of its frames."""
    if clock_may_jump(container):
        return 0.0  # an estimate of FFmpeg's
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska tells where the stream ends; other formats the length of the container, and so of its longest stream.
    written = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    if written is not None:
        end = sum(float(part) * unit for part, unit in zip(written.groups(), (3600, 60, 1), strict=True))
    elif len(container.streams) == 1 and container.format.name.startswith("matroska") and container.duration:
        end = container.duration / av.time_base
    else:
        return 0.0
    return end - min((stamp for stamp in stamps if stamp is not None), default=0) * float(stream.time_base)


def _position(stamps: list[int | None], stamp: int) -> int:
    """How many frames are shown before ``stamp``."""
    return sum(1 for other in stamps if other is not None and other < stamp)


def _times(stamps: list[int | None], base: float, rate: float, counted: bool) -> np.ndarray:
    """Ascending times of frames that a decoder gave in the order in which they are shown."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(one < other for one, other in pairwise(known)):
        return np.array(known) * base
    if counted or not known:
        # AVI numbers its frames in the order of decoding; a number that is missing is a frame that is shown for longer.
        numbers = (np.sort(np.array(known)) - min(known, default=0)) * base * rate
        whole = len(known) == len(stamps) and bool((np.abs(numbers - numbers.round()) < WHOLE).all())
        return (numbers if whole and (np.diff(numbers) > WHOLE).all() else np.arange(len(stamps))) / rate
    # The order is certain, so stamps that contradict it, and missing ones, are filled in between those that do not.
    positions = _longest_ascent(stamps)
    seconds = [stamps[position] * base for position in positions]  # type: ignore[operator]
    times = np.interp(np.arange(len(stamps)), positions, seconds)
    before, behind = np.arange(positions[0]), np.arange(positions[-1] + 1, len(stamps))
    times[before] = seconds[0] + (before - positions[0]) / rate
    times[behind] = seconds[-1] + (behind - positions[-1]) / rate
    return times


def _longest_ascent(stamps: list[int | None]) -> list[int]:
    """Positions of a longest strictly ascending subsequence of the stamps that are known (patience sorting)."""
    ends: list[int] = []
    smallest: list[float] = []
    before: list[int] = [-1] * len(stamps)
    for position, stamp in enumerate(stamps):
        if stamp is None:
            continue
        length = bisect.bisect_left(smallest, stamp)
        before[position] = ends[length - 1] if length else -1
        smallest[length : length + 1] = [stamp]
        ends[length : length + 1] = [position]
    found = []
    position = ends[-1]
    while position >= 0:
        found.append(position)
        position = before[position]
    return found[::-1]


def _intact(keys: list[bool], corrupt: list[bool], lost: list[int]) -> np.ndarray:
    """Damage reaches from a frame, or from where one is missing, to the next key frame."""
    intact = np.ones(len(keys), bool)
    begins = sorted([position for position, broken in enumerate(corrupt) if broken] + lost)
    starts = [position for position, key in enumerate(keys) if key and not corrupt[position]]
    for begin in begins:
        end = next((start for start in starts[bisect.bisect_left(starts, begin) :]), len(keys))
        intact[begin:end] = False
    return intact
