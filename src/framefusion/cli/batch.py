"""Ask many questions about many videos and photographs, in this process or on Ray."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from framefusion.cli.common import check_writable, silence_transformers
from framefusion.cli.errors import fail, resumable
from framefusion.cli.groups import spelled
from framefusion.cli.options import (
    DEFAULT_NEW_TOKENS,
    FrameOptions,
    JsonOption,
    ModelOptions,
    NewTokensOption,
    ReductionOptions,
)
from framefusion.cli.progress import Lines, bars
from framefusion.cli.questions import command_line
from framefusion.cli.reduction import check_options, shown_frames, stored_settings, warn_elsewhere

if TYPE_CHECKING:
    from framefusion.batch import Local, RayEngine, Summary

_RAY = "With --engine ray"
"""A heading of ``--help``."""


@dataclass(frozen=True)
class RayOptions:
    """The arguments of :class:`framefusion.batch.RayEngine`."""

    actors: Annotated[
        int | None,
        typer.Option("--actors", help="Processes, one model each. Default: 1.", rich_help_panel=_RAY),
    ] = None
    cpus: Annotated[
        float | None,
        typer.Option("--cpus", help="CPUs, and threads, of each actor. Default: 1.", rich_help_panel=_RAY),
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option("--gpus", help="GPUs of each actor, or a share. Default: 0.", rich_help_panel=_RAY),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="An existing cluster, such as auto. Default: this machine.", rich_help_panel=_RAY
        ),
    ] = None


@dataclass(frozen=True)
class OrderOptions:
    """In which order rows are worked on and written."""

    ordered: Annotated[
        bool,
        typer.Option("--ordered/--unordered", help="Write results in the order of the questions, or as they come."),
    ] = True
    ahead: Annotated[
        bool,
        typer.Option(
            "--ahead/--no-ahead",
            help="Decode the next video while the model works on this one; two are in memory then. Not with Ray.",
        ),
    ] = True
    share: Annotated[
        bool,
        typer.Option(
            "--share/--no-share", help="Prefill a video once for all questions about it that follow each other."
        ),
    ] = True


def batch(
    *,
    questions: Annotated[
        Path,
        typer.Argument(help='A file of JSON lines: {"video" or "image": …, "question": …, "id": …}.'),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="File for the results; rows that it holds already are not asked again.")
    ] = Path("results.jsonl"),
    model: ModelOptions,
    shown: FrameOptions,
    reduction: ReductionOptions,
    engine: Annotated[
        str, typer.Option("--engine", help="local (one row after the other in this process) or ray.")
    ] = "local",
    ray: RayOptions,
    order: OrderOptions,
    json_: JsonOption = False,
    max_new_tokens: NewTokensOption = DEFAULT_NEW_TOKENS,
) -> None:
    """Answer every question of a file, each about its own videos and photographs.

    Interrupt it whenever you like, or let the machine do so; the same command goes on where it was.

    The exit code is 0 when every row has a result, also where that is an error, which its line says; 2 when the batch
    cannot begin or go on, 130 when it is interrupted.
    """
    check_options(shown, reduction, max_new_tokens)
    check_writable(out)
    stored = stored_settings(reduction)
    frames = shown_frames(shown, model, stored.calibration)
    with bars(rate=True, otherwise=Lines()) as progress, resumable(out):
        from framefusion.batch import Plan, run

        where = _engine(engine, ray, order.ahead)
        plan = Plan(stored.settings, model.arguments(), frames, shown.fps, max_new_tokens, order.share)
        # Ray tells of dead actors on stdout, where --json has its object.
        with redirect_stdout(sys.stderr):
            summary = run(
                questions,
                out,
                plan,
                engine=where,
                ordered=order.ordered,
                command=command_line(sys.argv[1:]),
                progress=progress,
                prepare=silence_transformers,
            )
    if summary.model is not None:
        answered_by = summary.model
        warn_elsewhere(shown, reduction, lambda: answered_by, stored.calibration)
    if json_:
        typer.echo(json.dumps({**dataclasses.asdict(summary), "written": str(out)}, ensure_ascii=False))
    else:
        _show(summary, out)


COMMANDS = {"batch": batch}


def _engine(name: str, ray: RayOptions, ahead: bool) -> Local | RayEngine:
    from framefusion.batch import BatchError, Local, RayEngine

    if name == "local":
        if given := spelled(ray):
            fail(f"{given[0]} needs --engine ray")
        return Local(ahead)
    if name != "ray":
        fail(f"--engine must be local or ray, got {name!r}")
    try:
        return RayEngine(**{key: value for key, value in dataclasses.asdict(ray).items() if value is not None})
    except BatchError as error:
        fail(f"--{error}")


def _show(summary: Summary, out: Path) -> None:
    from framefusion.showing.units import count

    rows, errors = count(summary.rows, "row"), count(summary.errors, "error")
    were = "was" if summary.found == 1 else "were"
    before = f", {summary.found:,} {were} there already" if summary.found else ""
    typer.echo(f"{rows}: {summary.answered:,} answered, {errors}{before}. Written to {out}")
    if summary.first_error is not None:
        typer.echo(f"The first error is of {summary.first_error}")
