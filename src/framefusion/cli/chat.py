"""Talk about videos and photographs that are shown once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framefusion.cli.ask import AskOptions, Request, described
from framefusion.cli.common import silence_transformers, time_parts
from framefusion.cli.errors import OptionError, fail, named, printable, told
from framefusion.cli.groups import spelled
from framefusion.cli.lines import piped, typed
from framefusion.cli.options import (
    DEFAULT_NEW_TOKENS,
    FrameOptions,
    ModelOptions,
    NewTokensOption,
    ReductionOptions,
    SessionOptions,
)
from framefusion.cli.progress import spinner
from framefusion.cli.reduction import check_options, shown_frames, stored_settings, warn_elsewhere

if TYPE_CHECKING:
    from framefusion.asking.sessions import Reply
    from framefusion.cli.conversation import Conversation


OptionalMediaArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="MEDIA...", help="Videos and photographs, as for ask; none are needed with --load."),
]


def chat(
    *,
    media: OptionalMediaArgument = None,
    model: ModelOptions,
    shown: FrameOptions,
    reduction: ReductionOptions,
    held: SessionOptions,
    history: Annotated[
        bool | None,
        typer.Option(
            "--history/--no-history",
            help="Whether a question sees the earlier ones and their answers. Default: as saved with --load, else not.",
        ),
    ] = None,
    load: Annotated[
        Path | None,
        typer.Option("--load", help="Go on with a session that /save wrote, with the model that it was made with."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object for each answer.")] = False,
    max_new_tokens: NewTokensOption = DEFAULT_NEW_TOKENS,
) -> None:
    """Talk about videos and photographs: they are shown once, and every question costs its own text alone.

    On a terminal: a prompt; /help lists what else can be said, Ctrl-C stops an answer, Ctrl-D ends. Piped: one question
    a line, answers on stdout.
    """
    check_options(shown, reduction, max_new_tokens)
    request = Request(media or [], AskOptions(max_new_tokens=max_new_tokens), None, model, shown, reduction)
    _check(request, held, load)
    conversation = _begun(request, held, load)
    if history is not None:
        conversation.session.history = history
    terminal = not json_ and sys.stdin.isatty() and sys.stdout.isatty()
    _Chat(conversation, terminal, json_).run()


COMMANDS = {"chat": chat}


def _check(request: Request, held: SessionOptions, load: Path | None) -> None:
    """Refuse what cannot be right before anything slow begins."""
    for source in request.media:
        _check_is_no_pipe(source)
    if load is None and not request.media:
        fail("there is nothing to talk about; name a video or a photograph, or a session with --load")
    if load is not None:
        if given := spelled(request.reduction, held):
            fail(f"--load and {given[0]} exclude each other; the session says what is kept and held")
        if not load.is_dir():
            fail(f"there is no directory {named(load)}, so there is no session in it")


def _begun(request: Request, held: SessionOptions, load: Path | None) -> Conversation:
    """Check, load, and show what was named."""
    with spinner() as progress:
        from framefusion.asking.media import check_source

        for source in request.media:
            check_source(source)
        options = held.arguments()
        progress("Starting")
        stored = stored_settings(request.reduction)
        frames = shown_frames(request.shown, request.model, stored.calibration)
        progress("Loading the model" if request.model.model is None else f"Loading {request.model.model}")
        silence_transformers()
        from framefusion.asking.loading import load as load_model
        from framefusion.asking.sessions.restoring import restore_session
        from framefusion.cli.conversation import Conversation

        loaded = load_model(**request.model.arguments())
        progress("Compiling the selection, unless that was done before")
        restored = None if load is None else restore_session(load, loaded.model, loaded.processor)
        if restored is not None:
            restored.max_new_tokens, restored.timed = request.own.max_new_tokens, True
        conversation = Conversation(request, loaded, frames, options, restored)
        for source in request.media:
            conversation.add(source, progress)
    warn_elsewhere(request.shown, request.reduction, lambda: described(loaded), stored.calibration)
    return conversation


def _check_is_no_pipe(source: str) -> None:
    if source == "-":
        fail("- cannot be shown here: standard input is where the questions come from")


class _Chat:
    """Lines in, answers out.

    Args:
        conversation: what is talked about.
        terminal: whether somebody types; else only answers are on stdout.
        json_: an object for each answer.
    """

    def __init__(self, conversation: Conversation, terminal: bool, json_: bool) -> None:
        self.conversation, self.terminal, self.json = conversation, terminal, json_
        self.commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/help": ("", "what can be said", self._help),
            "/add": ("FILE", "show another video or photograph", self._add),
            "/budget": ("COST", "begin again with this mean share of visual tokens, such as 0.2", self._budget),
            "/history": ("on|off", "whether a question sees the earlier ones and their answers", self._history),
            "/summary": ("", "what is held, and what took how long", self._summary),
            "/save": ("DIR", "write the session into a directory, for chat --load", self._save),
            "/report": ("FILE", "an HTML report of the last question", self._report),
        }

    def run(self) -> None:
        """Until there are no more lines, or one says ``/quit``."""
        if self.terminal:
            self._tell(f"{self.conversation.session.summary()}. /help for help, Ctrl-D ends.")
        for line in typed([*self.commands, "/quit"]) if self.terminal else piped():
            line = line.strip()
            if line == "/quit":
                return
            try:
                with told():
                    self._take(line)
            except KeyboardInterrupt:
                if not self.terminal:
                    raise
                self._tell("\nstopped; the session is as it was")

    def _take(self, line: str) -> None:
        """One line: a command, or a question."""
        if not line.startswith("/"):
            if line:
                self._ask(line)
            return
        name, _, given = line.partition(" ")
        if name not in self.commands:
            raise OptionError(f"there is no {name}; /help lists what there is")
        argument, what, function = self.commands[name]
        if bool(given.strip()) != bool(argument):
            raise OptionError(f"{name} is for: {what}; say {name} {argument}".rstrip())
        function(given.strip())

    def _ask(self, question: str) -> None:
        if self.json:
            typer.echo(printable(json.dumps(self._row(self.conversation.ask(question)), ensure_ascii=False)))
        elif not self.terminal:
            typer.echo(self.conversation.ask(question).text)
        else:
            said: list[str] = []

            def say(piece: str) -> None:
                said.append(piece if said else piece.lstrip())
                typer.echo(said[-1], nl=False)

            reply = self.conversation.ask(question, say)
            typer.echo("" if "".join(said).strip() else "(no text)")
            typer.secho(_cost(reply), dim=True)

    def _row(self, reply: Reply) -> dict[str, Any]:
        """An answer as plain values."""
        summary = self.conversation.session.summary()
        return {
            "question": reply.question,
            "answer": reply.text,
            "seconds_to_first_token": reply.seconds_to_first_token,
            "seconds": reply.seconds_total,
            "new_tokens": reply.new_tokens,
            "prefilled": reply.prefilled,
            "times": reply.times.as_dict(),
            "visual_tokens": {
                "before": summary.visual_tokens,
                "held": summary.held,
                "forgotten": summary.forgotten,
                "mean_share": reply.summary.mean_share,
            },
            "tower_share": reply.summary.tower_share,
        }

    def _help(self, _: str) -> None:
        rows = {f"{name} {argument}": what for name, (argument, what, _) in self.commands.items()}
        rows["/quit"] = "end, as Ctrl-D does"
        self._tell("\n".join(f"{name:16}{what}" for name, what in rows.items()))
        self._tell("Anything else is a question. Ctrl-C stops an answer.")

    def _add(self, source: str) -> None:
        _check_is_no_pipe(source)
        with spinner() as progress:
            self.conversation.add(source, progress)
        self._held()

    def _budget(self, given: str) -> None:
        try:
            cost = float(given)
        except ValueError:
            raise OptionError(f"a budget is a share in (0, 1], such as 0.2, got {given!r}") from None
        with spinner() as progress:
            self.conversation.spend(cost, progress)
        self._tell(f"A new session at a cost of {cost:g}; it does not know the earlier questions.")
        self._held()

    def _history(self, given: str) -> None:
        if given not in ("on", "off"):
            raise OptionError(f"say /history on or /history off, got {given!r}")
        self.conversation.session.history = given == "on"
        seen = "sees the earlier ones and their answers" if given == "on" else "is answered by itself"
        self._tell(f"From now on each question {seen}.")

    def _held(self) -> None:
        self._tell(str(self.conversation.session.summary()))

    def _summary(self, _: str) -> None:
        self._held()
        summary = self.conversation.session.summary()
        if shown := time_parts(summary.times_adding):
            self._tell(f"Shown: {shown}.")
        if summary.times_asking is not None:
            self._tell(f"The last question: {time_parts(summary.times_asking)}.")

    def _report(self, given: str) -> None:
        with spinner() as progress:
            other = self.conversation.report(Path(given), progress)
        self._tell(f"Written to {given}")
        if other is not None:
            self._tell(f"By itself, as in the report, the question is answered: {other}")

    def _save(self, given: str) -> None:
        self.conversation.session.save(given)
        self._tell(f"Written to {given}")

    def _tell(self, text: str) -> None:
        typer.echo(printable(text), err=not self.terminal)


def _cost(reply: Reply) -> str:
    """What an answer took, in one line."""
    from framefusion.showing.units import seconds

    summary = reply.summary
    return (
        f"{seconds(reply.seconds_to_first_token)} to the first of {reply.new_tokens} tokens, "
        f"{seconds(reply.seconds_total)} in all; {reply.prefilled} tokens of text read, "
        f"{summary.visual_tokens_after:,} of {summary.visual_tokens_before:,} visual tokens in the last layer"
    )
