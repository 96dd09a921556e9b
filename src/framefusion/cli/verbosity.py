"""What ``--verbose`` shows: tracebacks, and what the library logs."""

from __future__ import annotations

import logging
import traceback
from typing import Annotated

import typer

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


def turn_off() -> None:
    """At the end of a command."""
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
