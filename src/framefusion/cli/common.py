"""What every command needs: one clear sentence for an error, progress, and paths checked ahead."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from framefusion.cli import verbosity

_LONGEST_NAME = 100
"""Characters of a path in a sentence; of a longer one the middle is left out."""


def fail(reason: object) -> NoReturn:
    """Print one sentence and leave with exit code 2; the traceback of an exception comes before it with --verbose."""
    if isinstance(reason, BaseException):
        verbosity.show(reason)
    typer.echo(f"framefusion: {printable(' '.join(str(reason).split()).rstrip('.'))}", err=True)
    raise typer.Exit(2)


def printable(text: str) -> str:
    """A text that UTF-8 can hold: names of files may have bytes that are no characters."""
    return text.encode(errors="replace").decode()


def named(path: object) -> str:
    """A path as sentences name it."""
    text = str(path)
    return text if len(text) <= _LONGEST_NAME else f"{text[:60]}…{text[-30:]}"


def check_writable(path: Path | None) -> None:
    """Refuse a path before the slow work rather than after it."""
    if path is None:
        return
    parent = path.absolute().parent
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as error:
        fail(f"cannot write {named(path)}: {reason_of(error)}")
    if found is not None and stat.S_ISDIR(found.st_mode):
        fail(f"cannot write {named(path)}: it is a directory")
    if not os.path.isdir(parent):
        fail(f"cannot write {named(path)}: there is no directory {named(parent)}")
    if not os.access(parent if found is None else path, os.W_OK):
        fail(f"cannot write {named(path)}: permission denied")


def reason_of(error: BaseException) -> str:
    """What an error of the operating system says, in lower case and without numbers."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def silence_transformers() -> None:
    """Loading bars and advice for programmers have no place around an answer."""
    warnings.filterwarnings("ignore")
    import huggingface_hub
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()


@contextmanager
def progress_display() -> Iterator[Any]:
    """A function that names the step under way: a spinner on a terminal, nothing when piped."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console

    with Console(stderr=True).status("Starting") as status:
        yield lambda step: status.update(f"{step} …")
