"""Time the selection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from framefusion.cli.common import check_writable
from framefusion.cli.progress import spinner


def bench(
    json_: Annotated[Path | None, typer.Option("--json", help="Write the measurements to this file.")] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Timed runs of each way.")] = 5,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    device: Annotated[str, typer.Option("--device", help="A torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the features: float32 or bfloat16.")] = "float32",
) -> None:
    """Time the selection beside the published system's ways, on random features."""
    check_writable(json_)
    with spinner() as progress:
        progress("Loading")
        from framefusion.bench import run

        result = run(
            iterations=iterations,
            threads=threads,
            json_path=json_,
            progress=progress,
            device=device,
            dtype=dtype,
        )
    typer.echo(result.table())


COMMANDS = {"bench": bench}
