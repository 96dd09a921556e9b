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
    if refused:
        for row in rows:
            typer.echo(f"{row['model_class']}\n  {row['reason']}")
        return
    width = max(len(row["name"]) for row in rows) + 2
    for row in rows:
        typer.echo(f"{row['name']:{width}}{row['model_class']}")
    typer.echo("\nHow each was checked, and where its visual tokens are: framefusion models --json")
    count = len(families.refused())
    typer.echo(f"{count} other classes of transformers are not supported: framefusion models --refused")


COMMANDS = {"models": models}
