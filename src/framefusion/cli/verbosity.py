"""What ``--verbose`` shows: tracebacks, and what the library logs; and one sentence for whatever escapes a command."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import traceback
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from framefusion.errors import FrameFusionError

_LOGGER = logging.getLogger("framefusion")


class _State:
    """Of the command under way."""

    wanted = False
    handler: logging.Handler | None = None
    level = logging.NOTSET


def _turn_on(wanted: bool) -> None:
    if not wanted or _State.wanted:
        return
    _State.wanted, _State.level, _State.handler = True, _LOGGER.level, logging.StreamHandler()
    _State.handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _LOGGER.addHandler(_State.handler)
    _LOGGER.setLevel(logging.INFO)


def _turn_off() -> None:
    if _State.handler is not None:
        _LOGGER.removeHandler(_State.handler)
        _LOGGER.setLevel(_State.level)
    _State.wanted, _State.handler = False, None


VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", callback=_turn_on, is_eager=True, help="Show what is logged, and tracebacks of errors."),
]


def show(error: BaseException) -> None:
    """Print the traceback of an error, with ``--verbose``."""
    if _State.wanted:
        typer.echo("".join(traceback.format_exception(error)).encode(errors="replace").decode(), err=True, nl=False)


def with_verbose(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the option ``--verbose`` behind its own."""

    @functools.wraps(command)
    def run(*args: Any, verbose: bool = False, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    hints: dict[str, Any] = {**get_type_hints(command, include_extras=True), "verbose": VerboseOption}
    own = inspect.signature(command)
    parameters = [one.replace(annotation=hints[one.name]) for one in own.parameters.values()]
    parameters.append(
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=VerboseOption)
    )
    run.__annotations__ = hints
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


class Commands(TyperGroup):
    """All commands; nothing leaves them as a traceback unless ``--verbose`` asks for it."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Exit code 2 for what is wrong with the input, 1 for a defect of ours."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            _explain(error)
            raise
        finally:
            _turn_off()


def _explain(error: Exception) -> None:
    """Leave with one sentence; what typer itself handles is left to it."""
    from framefusion.cli.common import fail, named, reason_of

    if type(error).__module__.split(".")[0] in ("typer", "click") or getattr(error, "errno", None) == errno.EPIPE:
        return
    if isinstance(error, FrameFusionError):
        fail(error)
    show(error)
    if isinstance(error, OSError) and error.filename is not None:
        fail(f"cannot use {named(error.filename)}: {reason_of(error)}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        fail("there is not enough memory; show fewer frames or smaller pictures, or take a smaller model")
    said = " ".join(str(error).split()).encode(errors="replace").decode()
    typer.echo(
        f"framefusion: unexpected {type(error).__name__}: {said}; this is a defect of framefusion, "
        "not of the input: please report it with the traceback that --verbose shows",
        err=True,
    )
    raise typer.Exit(1) from error
