"""The command line. Heavy imports stay inside the commands, so that ``--help`` answers at once.

A command is a module here that names its functions in ``COMMANDS``, and its own name in :data:`MODULES`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from framefusion._version import __version__
from framefusion.cli.errors import Commands
from framefusion.cli.groups import command_of
from framefusion.cli.verbosity import VerboseOption

MODULES = (
    "ask",
    "chat",
    "page",
    "watch",
    "batch",
    "eval",
    "calibrate",
    "probe",
    "models",
    "plan",
    "bench",
    "demo",
)
"""Where the commands are, in the order of ``--help``."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions about videos and photographs with a fraction of their visual tokens.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"framefusion {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave."),
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    pass


for _module in MODULES:
    for _name, _command in import_module(f"{__name__}.{_module}").COMMANDS.items():
        app.command(_name)(command_of(_command))


def main() -> None:
    """Entry point of the ``framefusion`` command."""
    for stream in (sys.stdout, sys.stderr):
        # an answer must not fail on a terminal that cannot show one of its characters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()
