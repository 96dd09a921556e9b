"""Long videos in ``ask``: shown in parts, so that memory stays bounded however long they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from framefusion.cli.common import silence_transformers, time_parts
from framefusion.cli.errors import named, printable
from framefusion.cli.options import memory_of
from framefusion.cli.reduction import shown_frames, stored_settings, warn_elsewhere
from framefusion.cli.request import LONG, AskOptions, Request

if TYPE_CHECKING:
    from framefusion.asking.decoding.pictures import Resize
    from framefusion.asking.media import Media


def read(request: Request, frames: int | None, progress: Callable[[str], Any]) -> list[Media] | None:
    """The media of a request; None where one is a video of more than ``LONG`` frames, which may go in parts."""
    from framefusion.asking.media import media_parts, read_media
    from framefusion.asking.video import Video

    media: list[Media] = []
    for source in request.media:
        progress(f"Decoding {named(source)}")
        fit = partial(_fit_large, request)
        if request.question is None or request.own.compare or request.own.report is not None or source == "-":
            media.append(read_media(source, frames=frames, fps=request.shown.fps, fit=fit))
            continue
        parts = media_parts(source, frames, request.shown.fps, LONG, fit)
        first = next(parts)
        media.append(first)
        # A part that is not full is the last one.
        if isinstance(first, Video) and len(first) == LONG and next(parts, None) is not None:
            return None
    return media


def _fit_large(request: Request, count: int, height: int, width: int) -> Resize | None:
    """What resizes frames that are too large to be kept for pictures: as the model's processor would."""
    from framefusion.asking.decoding.pictures import is_large

    if not is_large(count, height, width):
        return None
    from framefusion.asking.fitting import Fitting
    from framefusion.asking.loading import load_skeleton

    model = request.model
    skeleton = load_skeleton(model.model, trust_remote_code=model.trust_remote_code)
    return Fitting.of(skeleton.model, skeleton.processor)(count, height, width)


def execute(request: Request, own: AskOptions, progress: Callable[[str], Any]) -> None:
    """Show the media in parts, ask, and tell."""
    stored = stored_settings(request.reduction)
    frames = shown_frames(request.shown, request.model, stored.calibration)
    progress("Loading the model" if request.model.model is None else f"Loading {request.model.model}")
    silence_transformers()
    from framefusion.asking.loading import load
    from framefusion.asking.provenance import describe, provenance
    from framefusion.asking.sessions import session
    from framefusion.asking.sessions.session import CHUNK

    loaded = load(**request.model.arguments())
    options: dict[str, Any] = {"chunk": own.chunk or CHUNK, "max_new_tokens": own.max_new_tokens}
    options |= {"memory": None if own.memory is None else memory_of(own.memory), "warm": False, "timed": True}
    with session(loaded.model, loaded.processor, stored.settings, **options) as talk:
        for source in request.media:
            name = named(source)

            def shown(count: int, name: str = name) -> None:
                progress(f"Showing {name}: {count} frames so far")

            talk.add(source, frames=frames, fps=request.shown.fps, progress=shown)
        progress("Answering")
        assert request.question is not None
        reply, held = talk.ask(request.question), talk.summary()
    warn_elsewhere(request.shown, request.reduction, lambda: describe(loaded), stored.calibration)
    if request.json:
        record = {
            "answer": reply.text,
            "question": request.question,
            "media": list(request.media),
            "parts": talk.chunk,
            "session": dataclasses.asdict(held),
            "tokens_before": reply.summary.visual_tokens_before,
            "tokens_after": reply.summary.visual_tokens_after,
            "mean_share": reply.summary.mean_share,
            "tower_share": reply.summary.tower_share,
            "seconds_to_first_token": reply.seconds_to_first_token,
            "times": reply.times.as_dict(),
            **provenance(talk.settings, loaded),
        }
        typer.echo(printable(json.dumps(record, ensure_ascii=False)))
        return
    share = reply.summary.mean_share
    typer.echo(f"Answer  {printable(reply.text) or '(no text)'}")
    typer.echo(f"Shown   {held.frames} frames in parts of {talk.chunk}, {held.visual_tokens:,} visual tokens")
    forgotten = f", {held.forgotten:,} were forgotten" if held.forgotten else ""
    typer.echo(f"Kept    {share:.1%} of them over the layers; {held.nbytes / 2**20:.0f} MiB are held{forgotten}")
    if held.tower_share is not None:
        typer.echo(f"Tower   did {held.tower_share:.1%} of its work on the video")
    typer.echo(f"Time    {held.seconds_adding:.1f} s to show it, {reply.seconds_total:.1f} s to answer")
    typer.echo(f"Parts   of showing it: {time_parts(held.times_adding)}")
