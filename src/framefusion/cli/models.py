"""List the supported model families."""

from __future__ import annotations

import json

import typer

from framefusion.cli.options import JsonOption


def models(json_: JsonOption = False) -> None:
    """List the supported model families."""
    from framefusion.hf.families import table

    rows = table()
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(row["name"])
        for key, value in row.items():
            if key != "name":
                typer.echo(f"  {key.replace('_', ' '):13} {value}")


COMMANDS = {"models": models}
