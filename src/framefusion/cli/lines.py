"""Lines that somebody types, or that come through a pipe."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence

import typer

PROMPT = "> "


def piped() -> Iterator[str]:
    """The lines of standard input, each as soon as it is there."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    return iter(sys.stdin.readline, "")


def typed(commands: Sequence[str]) -> Iterator[str]:
    """The lines that are typed at a prompt, until Ctrl-D; Ctrl-C drops the line under way.

    Args:
        commands: what the tabulator completes at the beginning of a line; elsewhere it completes files.
    """
    _edit(commands)
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()


def _edit(commands: Sequence[str]) -> None:
    """Keys that edit the line and bring earlier ones back, where Python was built with them."""
    try:
        import readline
    except ImportError:  # Windows; its console has keys of its own
        return

    def completed(text: str, state: int) -> str | None:
        first = readline.get_begidx() == 0
        found = [one + " " for one in commands if one.startswith(text)] if first else []
        found = found or sorted(glob.glob(glob.escape(text) + "*"))
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(completed)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
