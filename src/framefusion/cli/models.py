"""List the supported model families."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from framefusion.cli.options import JsonOption

RefusedOption = Annotated[
    bool, typer.Option("--refused", help="List the classes of transformers that are not supported instead, and why.")
]


def models(refused: RefusedOption = False, json_: JsonOption = False) -> None:
    """List the supported model families, or what is not supported."""
    from framefusion.hf import families

    rows = families.refused() if refused else families.table()
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        (_, title), *more = row.items()
        typer.echo(title)
        for key, value in more:
            typer.echo(f"  {key.replace('_', ' '):13} {value}")
    if not refused:
        count = len(families.refused())
        typer.echo(f"\n{count} other classes of transformers are not supported: framefusion models --refused")


COMMANDS = {"models": models}
