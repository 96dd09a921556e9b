"""A page in the browser: ask videos, move the budget, see what was kept."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import shlex
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from framefusion.cli import verbosity
from framefusion.cli.ask import described
from framefusion.cli.common import silence_transformers
from framefusion.cli.errors import fail, printable, sentence
from framefusion.cli.groups import spelled
from framefusion.cli.options import DEFAULT_NEW_TOKENS, FrameOptions, ModelOptions, NewTokensOption, ReductionOptions
from framefusion.cli.plan import bytes_of
from framefusion.cli.progress import spinner
from framefusion.cli.reduction import check_options, shown_frames, stored_settings, warn_elsewhere
from framefusion.cli.request import AskOptions
from framefusion.cli.watch import seconds_of

if TYPE_CHECKING:
    from framefusion.app.desk import Asked
    from framefusion.app.limits import Limits
    from framefusion.app.page import Opening

_LIMITS = "What visitors may take"

KNOWS = "It knows coloured shapes and digits over real footage, and nothing else."
"""What visitors are told about the bundled models."""

COST = 0.3
"""Where the budget stands unless said otherwise; the default of ``ask``."""


@dataclass(frozen=True)
class ServerOptions:
    """Where the page is."""

    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all, so that others reach it.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 for any that is free.")] = 7860
    share: Annotated[
        bool, typer.Option("--share", help="Make it public through Gradio's relay, for whoever knows the address.")
    ] = False


@dataclass(frozen=True)
class LimitOptions:
    """What is refused with a sentence; defaults are those of :class:`framefusion.app.limits.Limits`."""

    max_upload: Annotated[
        str, typer.Option("--max-upload", help="Largest file, such as 200MiB.", rich_help_panel=_LIMITS)
    ] = "200MiB"
    max_length: Annotated[
        str, typer.Option("--max-length", help="Longest video, such as 10m.", rich_help_panel=_LIMITS)
    ] = "10m"
    max_frames: Annotated[
        int, typer.Option("--max-frames", help="Most frames of a video.", rich_help_panel=_LIMITS)
    ] = 64
    max_questions: Annotated[
        int, typer.Option("--max-questions", help="Questions of one open page.", rich_help_panel=_LIMITS)
    ] = 100
    max_visits: Annotated[
        int, typer.Option("--max-visits", help="Open pages that hold a video.", rich_help_panel=_LIMITS)
    ] = 16
    idle: Annotated[
        str,
        typer.Option(
            "--idle", help="Time without a question after which a page's video is deleted.", rich_help_panel=_LIMITS
        ),
    ] = "30m"

    def limits(self) -> Limits:
        """Checked, as the page takes them."""
        from framefusion.app.limits import Limits

        for name in ("max_frames", "max_questions", "max_visits"):
            if getattr(self, name) < 1:
                fail(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        upload = bytes_of("--max-upload", self.max_upload)
        assert upload is not None
        return Limits(
            upload=upload,
            seconds=seconds_of("--max-length", self.max_length),
            frames=self.max_frames,
            questions=self.max_questions,
            visits=self.max_visits,
            idle=seconds_of("--idle", self.idle),
        )


def app(
    model: ModelOptions,
    shown: FrameOptions,
    reduction: ReductionOptions,
    server: ServerOptions,
    limited: LimitOptions,
    max_new_tokens: NewTokensOption = DEFAULT_NEW_TOKENS,
) -> None:
    """Open a page for the browser: drop a video, ask, move the budget, and see what was kept.

    On this machine alone unless --host or --share say otherwise. Ctrl-C ends it and deletes what was uploaded. Needs
    pip install 'framefusion[app]'.
    """
    check_options(shown, reduction, max_new_tokens)
    limits = limited.limits()
    if not 0 <= server.port <= 65535:
        fail(f"--port must be from 0 to 65535, got {server.port}")
    with spinner(otherwise="starting, which takes some seconds") as progress:
        progress("Starting")
        silence_transformers()
        from framefusion.app.desk import Desk
        from framefusion.app.page import served
        from framefusion.asking.loading import load
        from framefusion.selection import warm_up

        stored = stored_settings(reduction)
        frames = shown_frames(shown, model, stored.calibration)
        if shown.frames is not None and shown.frames > limits.frames:
            fail(f"--frames must be at most {limits.frames}, the --max-frames of the page, got {shown.frames}")
        frames = None if frames is None else min(frames, limits.frames)
        progress("Loading the model" if model.model is None else f"Loading {model.model}")
        loaded = load(**model.arguments())
        progress("Compiling the selection, unless that was done before")
        warm_up(loaded.model.dtype, loaded.model.device)
        request = PageOptions(model, shown, reduction, max_new_tokens, is_local(server))
        desk = Desk(
            loaded,
            lambda cost: stored_settings(request.spent(cost)).settings,
            request.command,
            limits,
            _examples(),
            fps=shown.fps,
            max_new_tokens=max_new_tokens,
        )
    warn_elsewhere(shown, reduction, lambda: described(loaded), stored.calibration)
    start = opening(loaded.name, reduction, frames)
    with served(desk, start, _tell, host=server.host, port=server.port, share=server.share) as (address, public):
        typer.echo(f"The page is at {address}" + ("" if public is None else f" and, for everybody, at {public}"))
        typer.echo("Ctrl-C ends it.")
        _wait()


COMMANDS = {"app": app}


def _wait() -> None:
    """Until Ctrl-C, or until whoever started the page ends it: what was uploaded is deleted in either case."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo(err=True)  # behind the ^C
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class PageOptions:
    """What the page was started with."""

    model: ModelOptions
    shown: FrameOptions
    reduction: ReductionOptions
    max_new_tokens: int
    local: bool

    def spent(self, cost: float | None) -> ReductionOptions:
        """The reduction at a budget; None leaves it as it was given."""
        return self.reduction if cost is None else dataclasses.replace(self.reduction, cost=round(cost, 4))

    def command(self, asked: Asked) -> str:
        """The command line that asks the same. Where bundled files lie is told to nobody but who sits there."""
        media = str(asked.shown.path) if asked.shown.bundled and self.local else asked.shown.name
        shown = self.shown if asked.frames is None else FrameOptions(frames=asked.frames)
        own = AskOptions(compare=asked.compare, max_new_tokens=self.max_new_tokens)
        options = spelled(self.model, shown, self.spent(asked.cost), own)
        # What begins with a hyphen would be taken for an option.
        media = f"./{media}" if media.startswith("-") else media
        question = ["--", asked.question] if asked.question.startswith("-") else [asked.question]
        return printable(shlex.join(["framefusion", "ask", *options, media, *question]))


def is_local(server: ServerOptions) -> bool:
    """Whether nobody but this machine reaches the page."""
    if server.share:
        return False
    try:
        return ipaddress.ip_address(server.host).is_loopback
    except ValueError:
        return server.host == "localhost"


def opening(model: str, reduction: ReductionOptions, frames: int | None) -> Opening:
    """What the page offers at first: a budget to move, unless the options say all about the reduction."""
    from framefusion.app.page import Opening
    from framefusion.assets import BUNDLED, DEMO_QUESTIONS

    pairs = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    fixed = reduction.keep is not None or reduction.settings is not None
    cost = None if fixed else COST if reduction.cost is None else reduction.cost
    kinds = {pair["kind"]: pair["question"] for pair in reversed(pairs)}
    return Opening(model, cost, frames, tuple(kinds.values()), KNOWS if model in BUNDLED else "")


def _examples() -> dict[str, Path]:
    from framefusion.assets import DEMO_VIDEO, REAL_VIDEO

    return {path.name: path for path in (DEMO_VIDEO, REAL_VIDEO)}


def _tell(error: BaseException) -> str:
    verbosity.show(error)
    return sentence(error)
