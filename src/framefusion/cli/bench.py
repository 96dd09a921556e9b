"""Time the selection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from framefusion.cli.common import check_writable
from framefusion.cli.progress import spinner


def bench(
    json_: Annotated[Path | None, typer.Option("--json", help="Write the measurements to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the sweep into this picture.")] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Timed runs of each way.")] = 5,
    sweep: Annotated[bool, typer.Option("--sweep/--no-sweep", help="Also vary the number of frames.")] = True,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    device: Annotated[str, typer.Option("--device", help="A torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the features: float32 or bfloat16.")] = "float32",
    peers: Annotated[bool, typer.Option("--peers", help="Also time other packages (extra bench).")] = False,
) -> None:
    """Time the selection beside the published system's ways, on random features."""
    for path in (json_, plot):
        check_writable(path)
    with spinner() as progress:
        progress("Loading")
        from framefusion.bench import run

        result = run(
            sweep=sweep,
            iterations=iterations,
            threads=threads,
            json_path=json_,
            plot_path=plot,
            progress=progress,
            device=device,
            dtype=dtype,
            peers=peers,
        )
    typer.echo(result.table())


COMMANDS = {"bench": bench}
