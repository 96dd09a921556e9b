"""What every command needs: quiet libraries, paths checked ahead, a place for tables."""

from __future__ import annotations

import gc
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from framefusion.cli.errors import fail, named, reason_of

if TYPE_CHECKING:
    from rich.console import Console

    from framefusion.hf.timing import Times


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


@contextmanager
def importing(name: str) -> Iterator[None]:
    """Around imports: nothing is collected while a heavy module comes for the first time, nor looked at later.

    Torch and transformers make millions of objects that live as long as the process. Looking for garbage among them,
    again and again while they come and once more at the end, takes a third of the time until a first answer.
    """
    if name in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def silence_transformers() -> None:
    """Loading bars and advice for programmers have no place around an answer."""
    warnings.filterwarnings("ignore")
    with importing("framefusion.asking.loading"):
        import huggingface_hub
        import transformers

        import framefusion.asking.loading  # noqa: F401 (most of what a model needs, at once)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()


def table_console() -> Console:
    """Where tables are printed; one that nobody looks at on a terminal is not cut to a width."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def time_parts(times: Times) -> str:
    """``decoding the file 12 ms, processor 20 ms, …``: the parts that were measured."""
    from framefusion.showing.units import parts, seconds

    said = parts(times.parts)
    return said + ("" if times.per_token is None else f"; {seconds(times.per_token)} for each further token")
