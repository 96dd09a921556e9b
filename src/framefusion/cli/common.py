"""What every command needs: one clear sentence for an error, progress, and paths checked ahead."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer


def fail(reason: object) -> NoReturn:
    """Print one sentence and leave with exit code 2."""
    typer.echo(f"framefusion: {' '.join(str(reason).split()).rstrip('.')}", err=True)
    raise typer.Exit(2)


def check_writable(path: Path | None) -> None:
    """Refuse a path before the slow work rather than after it."""
    if path is None:
        return
    parent = path.absolute().parent
    if path.is_dir():
        fail(f"cannot write {path}: it is a directory")
    if not parent.is_dir():
        fail(f"cannot write {path}: there is no directory {parent}")
    if not os.access(path if path.exists() else parent, os.W_OK):
        fail(f"cannot write {path}: permission denied")


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
