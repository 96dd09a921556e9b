"""Questions that are asked again and again while a stream goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from framefusion.asking.sessions.session import Session
from framefusion.asking.sessions.state import Reply, SessionSummary
from framefusion.asking.streams import Frame, Stream, StreamStatus
from framefusion.asking.streams.sampling import Ticks
from framefusion.asking.streams.stream import STOPPED
from framefusion.checks import check_number
from framefusion.errors import ArgumentError


@dataclass(frozen=True)
class Observation:
    """An answer about what a stream has shown up to a moment.

    Attributes:
        timestamp: of the latest frame that was shown, seconds on the clock of the stream.
        reply: the answer.
        changed: whether it differs from the one before to the same question; True of the first.
        summary: what the session holds.
        status: how the stream is doing.
    """

    timestamp: float
    reply: Reply
    changed: bool
    summary: SessionSummary
    status: StreamStatus


def watch(
    session: Session, stream: Stream, questions: Sequence[str], every: float, *, seconds: float = math.inf
) -> Iterator[Observation]:
    """Show a session the frames of a stream as they come, and ask it the same questions again and again.

    The stream becomes a video of its own behind what the session holds. No question sees another; several are asked as
    one batch, see :meth:`Session.ask_all`. They are asked at the frames nearest to ``every``, ``2 * every``, …
    seconds behind the first one, and once more at the end, unless somebody stopped the stream or nothing came since.
    What comes meanwhile waits in the stream, which drops and counts what it cannot hold::

        with open_stream("rtsp://camera.example/live") as stream:
            for seen in watch(session, stream, ["Is anyone at the door?"], every=10):
                if seen.changed:
                    print(seen.timestamp, seen.reply.text)

    Args:
        session: shown ``session.chunk`` frames at once, and what has come whenever it is asked. One with ``memory``
            forgets what is old; without, what it holds grows.
        stream: of :func:`~framefusion.asking.streams.open_stream`. It is not closed.
        questions: at least one.
        every: seconds of the stream, above 0.
        seconds: of the stream, after which the questions are asked for the last time. Default: to its end.

    Raises:
        ArgumentError: no questions, an empty one, or a number out of its range.
        AskError: while it goes on: a part cannot be shown or a question not be answered; the session is as before.
        VideoError: likewise: the stream cannot be read.
    """
    if isinstance(questions, str) or not questions:
        raise ArgumentError("questions must be a list of texts that is not empty")
    for question in questions:
        if not isinstance(question, str) or not question.strip():
            raise ArgumentError("questions must be texts that are not empty")
    check_number("every", every, 0, math.inf, open_below=True)
    check_number("seconds", seconds, 0, math.inf, open_below=True)
    return _watched(session, stream, list(questions), every, seconds)


def _watched(
    session: Session, stream: Stream, questions: list[str], every: float, seconds: float
) -> Iterator[Observation]:
    ticks = Ticks(1 / every)
    shown = _Shown(session)
    answers: dict[int, str] = {}
    unasked, over = False, False
    for frame in stream:
        first = shown.begin is None
        shown.take(frame)
        assert shown.begin is not None
        over = frame.timestamp - shown.begin >= seconds
        # The clock begins with the first frame, at which there is nothing to ask yet.
        unasked = not (ticks.due(frame.timestamp) and not first)
        if over or not unasked:
            yield from _asked(shown, stream, questions, answers)
        if over:
            return
    if unasked and stream.status.reason != STOPPED:
        yield from _asked(shown, stream, questions, answers)


class _Shown:
    """Frames on their way into a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.begin: float | None = None
        self.latest = 0.0
        self._pending: list[Frame] = []
        self._goes_on = False

    def take(self, frame: Frame) -> None:
        """Take a frame, and show what makes a chunk, or has another size."""
        if self._pending and frame.pixels.shape != self._pending[0].pixels.shape:
            self.flush()
        self._pending.append(frame)
        self.begin = frame.timestamp if self.begin is None else self.begin
        self.latest = frame.timestamp
        if len(self._pending) >= self.session.chunk:
            self.flush()

    def flush(self) -> None:
        """Show what was taken."""
        if not self._pending:
            return
        times = [frame.timestamp for frame in self._pending]
        self.session.add([frame.pixels for frame in self._pending], timestamps=times, new=not self._goes_on)
        self._pending, self._goes_on = [], True


def _asked(shown: _Shown, stream: Stream, questions: list[str], answers: dict[int, str]) -> Iterator[Observation]:
    shown.flush()
    replies = shown.session.ask_all(questions)
    summary, status = shown.session.summary(), stream.status
    for number, reply in enumerate(replies):
        changed = answers.get(number) != reply.text
        answers[number] = reply.text
        yield Observation(shown.latest, reply, changed, summary, status)
