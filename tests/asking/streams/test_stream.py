"""What all streams have in common."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from framefusion.asking.streams import Frame, Stream, open_stream
from framefusion.asking.streams.pictures import Decoded, sampled
from framefusion.asking.streams.sampling import Clock, Ticks
from framefusion.asking.streams.stream import Tally
from framefusion.asking.streams.waiting import Waiting
from framefusion.errors import ArgumentError
from tests.asking.streams.clips import array


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": float("inf")}, "fps"),
        ({"fps": None}, "fps"),
        ({"idle": 0}, "idle"),
        ({"reconnections": -1}, "reconnections"),
        ({"reconnections": 1.5}, "reconnections"),
        ({"timeout": 0}, "timeout"),
        ({"buffer": 0}, "buffer"),
        ({"follow": 1}, "follow"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must be"):
        open_stream([array()], **arguments)


def test_stop_from_another_thread_ends_the_iteration() -> None:
    stream = open_stream(array(n) for n in iter(int, 1))
    next(stream)
    thread = threading.Thread(target=stream.stop)
    thread.start()
    thread.join()
    assert list(stream) == []
    assert (stream.status.ended, stream.status.reason, stream.status.frames_given) == (True, "stopped", 1)


def test_stop_ends_a_search_for_a_frame_that_is_due() -> None:
    waiting, tally = Waiting(), Tally()

    def frames() -> Iterator[Decoded]:
        for number in itertools.count():
            if number == 5:
                waiting.stop()
            yield Decoded(number / 1000, array)

    assert len(list(sampled(frames(), Clock(1.0), Ticks(1e-6), tally, waiting))) == 1
    assert tally.status.frames_decoded == 5


def test_leaving_the_block_closes_what_is_open() -> None:
    closed = []

    def produce(tally: Tally, waiting: Waiting) -> Iterator[Frame]:
        try:
            while True:
                yield Frame(array(), 0.0)
        finally:
            closed.append(True)

    stream = Stream("frames", produce)

    def use() -> None:
        with stream:
            next(stream)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert closed == [True]
    assert list(stream) == []
    assert stream.status.reason == "stopped"


def test_a_stopped_wait_ends() -> None:
    waiting = Waiting()
    thread = threading.Thread(target=waiting.wait, args=(3600.0,))
    thread.start()
    waiting.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert waiting.stopped
