"""Files: whole, in order, none dropped; also those that are still being written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from framefusion.asking.decoding.container import opened, rate_of, reason_of
from framefusion.asking.decoding.source import Source, source_of
from framefusion.asking.decoding.stills import (
    Draw,
    is_moving_picture,
    is_picture,
    pictures_of_animation,
    pictures_of_folder,
    read_picture,
)
from framefusion.asking.decoding.timeline import announced_seconds
from framefusion.asking.streams.growing import Growing
from framefusion.asking.streams.pictures import Decoded, decoded_frames, sampled
from framefusion.asking.streams.sampling import Clock, Ticks
from framefusion.asking.streams.stream import Frame, Produce, Tally
from framefusion.asking.streams.waiting import Waiting
from framefusion.asking.video import COMPLETE

logger = logging.getLogger(__name__)

WHOLE = "the file ended"


def file_frames(given: str | os.PathLike[str], fps: float) -> Produce:
    """Frames of anything that :func:`~framefusion.asking.media.read_media` reads."""

    def produce(tally: Tally, waiting: Waiting) -> Iterator[Frame]:
        with source_of(given) as source:
            stills = _stills(source)
            if stills is not None:
                yield from sampled(stills, Clock(1.0), Ticks(fps), tally, waiting)
                tally.end(WHOLE)
                return
            errors: list[BaseException] = []
            with opened(source, "SLICE") as (container, stream):
                clock = Clock(1 / rate_of(stream))
                frames = decoded_frames(container, stream, errors.append)
                yield from sampled(frames, clock, Ticks(fps), tally, waiting)
                if not waiting.stopped:
                    tally.end(_end(source, container, stream, clock, errors))

    return produce


def followed_frames(given: str, fps: float, idle: float) -> Produce:
    """Frames of a file that is still being written, until nothing came for ``idle`` seconds."""

    def produce(tally: Tally, waiting: Waiting) -> Iterator[Frame]:
        source = Source(given, os.path.abspath(given))
        with closing(Growing(source.location, given, idle, waiting)) as growing:
            try:
                with opened(source, "SLICE", file=growing) as (container, stream):
                    clock = Clock(1 / rate_of(stream))
                    yield from sampled(decoded_frames(container, stream), clock, Ticks(fps), tally, waiting)
            finally:
                if growing.interrupt is not None:
                    raise growing.interrupt
            if not waiting.stopped:
                tally.end(growing.reason if growing.ended else WHOLE)

    return produce


def _stills(source: Source) -> Iterator[Decoded] | None:
    """The frames of what Pillow reads; None of anything else."""
    if os.path.isdir(source.location):
        return _decoded(pictures_of_folder(source))
    if is_moving_picture(source):
        return _decoded(pictures_of_animation(source))
    if is_picture(source):
        return iter([Decoded(0.0, lambda: np.asarray(read_picture(source)))])
    return None


def _decoded(pictures: Iterator[tuple[float, Draw]]) -> Iterator[Decoded]:
    return (Decoded(time, draw) for time, draw in pictures)


def _end(source: Source, container: Any, stream: Any, clock: Clock, errors: list[BaseException]) -> str:
    """Why a file ended; a warning is logged if it should not have."""
    seconds = clock.end
    if errors:
        reason = f"it cannot be read on after {seconds:.1f} s ({reason_of(errors[0])})"
    else:
        first = None if clock.first is None else round(clock.first / float(stream.time_base))
        announced = announced_seconds(container, stream, [first])
        if announced <= seconds + COMPLETE:
            return WHOLE
        reason = f"it ends after {seconds:.1f} s of the {announced:.1f} s it announces"
    logger.warning("%s: %s", source.name, reason)
    return reason
