"""Ask about a stream again and again while it goes on."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framefusion import log
from framefusion.cli.ask import described
from framefusion.cli.common import check_writable, silence_transformers
from framefusion.cli.errors import fail, printable
from framefusion.cli.options import (
    DEFAULT_NEW_TOKENS,
    FrameOptions,
    ModelOptions,
    NewTokensOption,
    ReductionOptions,
    SessionOptions,
)
from framefusion.cli.progress import spinner
from framefusion.cli.reduction import check_options, stored_settings, warn_elsewhere

if TYPE_CHECKING:
    from framefusion.asking.sessions import Observation, Session
    from framefusion.asking.streams import Stream

MEMORY = "8192"
"""What is held unless said otherwise: visual tokens, so that what is kept of a stream does not grow."""

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "": 1}


@dataclass(frozen=True)
class WatchOptions:
    """Of ``watch`` alone."""

    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="What to ask; give it several times for several questions.")
    ] = None
    every: Annotated[
        str, typer.Option("--every", help="How often to ask, in time of the stream: 10s, 5m, 1h, or seconds.")
    ] = "10s"
    fps: Annotated[float, typer.Option("--fps", help="Frames to show per second of the stream, at most.")] = 1.0
    follow: Annotated[
        bool, typer.Option("--follow", help="The file is still being written; wait for more at its end.")
    ] = False
    limit: Annotated[
        str | None,
        typer.Option("--for", help="How long to watch, in time of the stream, such as 2h. Default: to its end."),
    ] = None
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", help="Add every answer to this file, one JSON object a line.")
    ] = None
    changes: Annotated[
        bool, typer.Option("--changes/--all", help="Print an answer when it is another one than before, or each time.")
    ] = True


def watch(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file, an address (rtsp, http and the like), or a camera: /dev/video0, camera:0, camera:NAME.",
        ),
    ],
    own: WatchOptions,
    model: ModelOptions,
    reduction: ReductionOptions,
    held: SessionOptions,
    max_new_tokens: NewTokensOption = DEFAULT_NEW_TOKENS,
) -> None:
    """Ask about a stream again and again while it goes on, and tell when an answer changes.

    Without --memory at most 8192 visual tokens are held. Ctrl-C ends.
    """
    shown = FrameOptions(fps=own.fps)
    check_options(shown, reduction, max_new_tokens)
    check_writable(own.jsonl)
    if own.jsonl is not None:
        log.check_end(own.jsonl)
    questions = own.ask or []
    if not questions or not all(question.strip() for question in questions):
        fail("there is no question, or an empty one; give at least one with --ask")
    every = seconds_of("--every", own.every)
    limit = math.inf if own.limit is None else seconds_of("--for", own.limit)
    with spinner() as progress:
        options = dataclasses.replace(held, memory=held.memory or MEMORY).arguments()
        progress("Starting")
        from framefusion.asking.streams import open_stream

        stored = stored_settings(reduction)
        stream = open_stream(source, own.fps, follow=own.follow)
        progress("Loading the model" if model.model is None else f"Loading {model.model}")
        silence_transformers()
        from framefusion.asking.loading import load
        from framefusion.asking.sessions import Session

        loaded = load(**model.arguments())
        progress("Compiling the selection, unless that was done before")
        session = Session(loaded.model, loaded.processor, stored.settings, max_new_tokens=max_new_tokens, **options)
    warn_elsewhere(shown, reduction, lambda: described(loaded), stored.calibration)
    _watch(session, stream, questions, own, every, limit)


COMMANDS = {"watch": watch}


def seconds_of(option: str, given: str) -> float:
    """A span of time such as ``10s``, ``1h30m`` or ``2.5``, in seconds."""
    text = given.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|min|s|m|h|d|)", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < total < math.inf:
        fail(f"{option} must be a time such as 10s, 5m or 1h30m, got {given!r}")
    return total


def _watch(
    session: Session, stream: Stream, questions: list[str], own: WatchOptions, every: float, limit: float
) -> None:
    """Until the stream ends, or somebody ends it; the summary comes in any case."""
    from framefusion.asking.sessions import watch

    latest = 0.0
    try:
        with stream:
            for seen in watch(session, stream, questions, every, seconds=limit):
                latest = seen.timestamp
                if own.jsonl is not None:
                    log.append(own.jsonl, [_row(seen)])
                if seen.changed or not own.changes:
                    answer = " ".join(seen.reply.text.split()) or "(no text)"
                    typer.echo(printable(f"{_clock(seen.timestamp)}  {seen.reply.question}: {answer}"))
    except KeyboardInterrupt:
        typer.echo(err=True)  # behind the ^C
    finally:
        if stream.status.frames_given:
            typer.echo(printable(_summary(session, stream, latest)))


def _row(seen: Observation) -> dict[str, Any]:
    """An answer as plain values."""
    return {
        "time": round(seen.timestamp, 3),
        "question": printable(seen.reply.question),
        "answer": seen.reply.text,
        "changed": seen.changed,
        "frames": seen.summary.frames,
        "held": seen.summary.held,
        "forgotten": seen.summary.forgotten,
        "tower_share": seen.summary.tower_share,
        "dropped": seen.status.frames_dropped,
        "reconnections": seen.status.reconnections,
        "seconds": seen.reply.seconds_total,
    }


def _summary(session: Session, stream: Stream, latest: float) -> str:
    """How it went, in one line."""
    held, status = session.summary(), stream.status
    tower = "" if held.tower_share is None else f", the tower did {held.tower_share:.0%} of its work"
    return (
        f"{status.frames_given} frames, {status.frames_dropped} dropped, {status.frames_damaged} damaged; "
        f"{status.reconnections} reconnections; {held.questions} answers, the last at {_clock(latest)}; "
        f"{held.held} visual tokens held, {held.forgotten} forgotten{tower}; {status.reason}"
    )


def _clock(seconds: float) -> str:
    """``80.2`` as ``0:01:20``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
