"""How a command ends that cannot do what it was asked: one sentence, and an exit code that follows from the class."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from framefusion.cli import verbosity
from framefusion.errors import ArgumentError, FrameFusionError

_LONGEST_NAME = 100
"""Characters of a path in a sentence; of a longer one the middle is left out."""


class OptionError(ArgumentError):
    """What stands on the command line cannot be right."""


class InterruptedCommandError(FrameFusionError):
    """Ctrl-C, where the same command goes on."""


EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (KeyboardInterrupt, 130),
    (InterruptedCommandError, 130),
    (FrameFusionError, 2),
    (OSError, 2),
    (MemoryError, 2),
    (BaseException, 1),
)
"""What a command leaves with, by the first class that an error is of: 2 for what is wrong with the input or the
machine, 130 for an interrupt, as shells have it, 1 for a defect of ours."""


def exit_code(error: BaseException) -> int:
    """The exit code for an error, see :data:`EXIT_CODES`."""
    own = MemoryError if _is_out_of_memory(error) else type(error)
    return next(code for kind, code in EXIT_CODES if issubclass(own, kind))


def fail(reason: object) -> NoReturn:
    """End the command with a sentence; where it is an error, ``--verbose`` shows the traceback of that one."""
    raise OptionError(str(reason)) from (reason if isinstance(reason, BaseException) else None)


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Ctrl-C inside says that the same command goes on with what is in ``out``."""
    try:
        yield
    except KeyboardInterrupt:
        text = f"interrupted; the same command goes on with what is in {out}"
        raise InterruptedCommandError(text) from None


@contextmanager
def told() -> Iterator[None]:
    """An error inside is told as if it ended the command, which goes on; an interrupt goes through."""
    try:
        yield
    except Exception as error:
        if _is_typers(error):
            raise
        _tell(error)


class Commands(TyperGroup):
    """All commands; nothing leaves them as a traceback unless ``--verbose`` asks for it."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error becomes a sentence on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if _is_typers(error):
                raise
            _tell(error)
            raise typer.Exit(exit_code(error)) from error
        finally:
            verbosity.turn_off()


def sentence(error: BaseException) -> str:
    """An error as one line."""
    said = printable(" ".join(str(error).split()).rstrip("."))
    if isinstance(error, FrameFusionError):
        return said
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError):
        return said if error.filename is None else f"cannot use {named(error.filename)}: {reason_of(error)}"
    if _is_out_of_memory(error):
        return "there is not enough memory; show fewer frames or smaller pictures, or take a smaller model"
    return (
        f"unexpected {type(error).__name__}: {said}; this is a defect of framefusion, not of the input: please report "
        "it with the traceback that --verbose shows"
    )


def printable(text: str) -> str:
    """A text that UTF-8 can hold: names of files may have bytes that are no characters."""
    return text.encode(errors="replace").decode()


def named(path: object) -> str:
    """A path as sentences name it."""
    text = printable(os.fsdecode(path) if isinstance(path, bytes) else str(path))
    return text if len(text) <= _LONGEST_NAME else f"{text[:60]}…{text[-30:]}"


def reason_of(error: BaseException) -> str:
    """What an error of the operating system says, in lower case and without numbers."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def _is_typers(error: BaseException) -> bool:
    """What typer itself handles is left to it."""
    return type(error).__module__.split(".")[0] in ("typer", "click") or getattr(error, "errno", None) == errno.EPIPE


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's, which is not imported for this.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _tell(error: BaseException) -> None:
    _show_traceback(error)
    typer.echo(f"framefusion: {sentence(error)}", err=True)


def _show_traceback(error: BaseException) -> None:
    """Of what was refused here, only the error behind it has a traceback that tells something."""
    shown = error.__cause__ if isinstance(error, OptionError) else error
    if shown is not None and exit_code(error) != exit_code(KeyboardInterrupt()):
        verbosity.show(shown)
