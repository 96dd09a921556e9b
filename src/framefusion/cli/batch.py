"""Ask many questions about many videos and photographs, in this process or on Ray."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framefusion.cli.ask import Request, check_options, doubt, shown_frames, stored_settings
from framefusion.cli.bars import Bars
from framefusion.cli.common import check_writable, fail, silence_transformers
from framefusion.cli.options import (
    DEFAULT_NEW_TOKENS,
    AttnOption,
    CostOption,
    DeviceOption,
    DtypeOption,
    FpsOption,
    FramesOption,
    JsonOption,
    KeepOption,
    ModelOption,
    SegmentationOption,
    SettingsOption,
    SimilarityOption,
    StagesOption,
    TrustOption,
)
from framefusion.cli.questions import command_line

if TYPE_CHECKING:
    from framefusion.batch import Local, RayEngine, Summary
    from framefusion.reduction.settings_file import Calibration

EVERY_SECONDS = 30.0
"""How often progress is told where there is no terminal."""


def batch(
    questions: Annotated[
        Path,
        typer.Argument(help='A file of JSON lines: {"video" or "image": …, "question": …, "id": …}.'),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="File for the results; rows that it holds already are not asked again.")
    ] = Path("results.jsonl"),
    model: ModelOption = None,
    frames: FramesOption = None,
    fps: FpsOption = None,
    cost: CostOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    segmentation: SegmentationOption = None,
    similarity: SimilarityOption = None,
    settings: SettingsOption = None,
    engine: Annotated[
        str, typer.Option("--engine", help="local (one row after the other in this process) or ray.")
    ] = "local",
    actors: Annotated[
        int | None, typer.Option("--actors", help="With --engine ray: processes, one model each. Default: 1.")
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus", help="With --engine ray: CPUs, and threads, of each actor. Default: 1.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus", help="With --engine ray: GPUs of each actor, or a share. Default: 0.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="With --engine ray: an existing cluster, such as auto. Default: this machine."),
    ] = None,
    ordered: Annotated[
        bool,
        typer.Option("--ordered/--unordered", help="Write results in the order of the questions, or as they come."),
    ] = True,
    json_: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    attn: AttnOption = None,
    trust_remote_code: TrustOption = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")
    ] = DEFAULT_NEW_TOKENS,
) -> None:
    """Answer every question of a file, each about its own videos and photographs.

    Interrupt it whenever you like, or let the machine do so; the same command goes on where it was.
    """
    request = Request(
        model=model,
        frames=frames,
        fps=fps,
        cost=cost,
        keep=keep,
        stages=stages,
        segmentation=segmentation,
        similarity=similarity,
        settings=settings,
        max_new_tokens=max_new_tokens,
    )
    check_options(request)
    check_writable(out)
    stored = stored_settings(request)
    loading = {
        "model": model,
        "dtype": dtype,
        "device": device,
        "attn": attn,
        "trust_remote_code": trust_remote_code,
    }
    with progress_of(out) as progress:
        from framefusion.batch import BatchError, Plan, run

        where = _engine(engine, {"actors": actors, "cpus": cpus, "gpus": gpus, "address": address})
        try:
            plan = Plan(stored.settings, loading, shown_frames(request, stored.calibration), fps, max_new_tokens)
            # Ray tells of dead actors on stdout, where --json has its object.
            with redirect_stdout(sys.stderr):
                summary = run(
                    questions,
                    out,
                    plan,
                    engine=where,
                    ordered=ordered,
                    command=command_line(sys.argv[1:]),
                    progress=progress,
                    prepare=silence_transformers,
                )
        except BatchError as error:
            fail(error)
        except KeyboardInterrupt:
            typer.echo(f"framefusion: interrupted; the same command goes on with what is in {out}", err=True)
            raise typer.Exit(130) from None
    _doubt(request, summary, stored.calibration)
    if json_:
        typer.echo(json.dumps({**dataclasses.asdict(summary), "written": str(out)}, ensure_ascii=False))
    else:
        _show(summary, out)


COMMANDS = {"batch": batch}


def _engine(name: str, options: dict[str, Any]) -> Local | RayEngine:
    from framefusion.batch import BatchError, Local, RayEngine

    given = {key: value for key, value in options.items() if value is not None}
    if name == "local":
        if given:
            fail(f"--{next(iter(given))} needs --engine ray")
        return Local()
    if name != "ray":
        fail(f"--engine must be local or ray, got {name!r}")
    try:
        return RayEngine(**given)
    except BatchError as error:
        fail(f"--{error}")


def _doubt(request: Request, summary: Summary, calibration: Calibration | None) -> None:
    if summary.model is not None:
        model = summary.model
        doubt(request, lambda: model, calibration)


def _show(summary: Summary, out: Path) -> None:
    before = f", {summary.found} were there already" if summary.found else ""
    typer.echo(f"{summary.rows} rows: {summary.answered} answered, {summary.errors} errors{before}. Written to {out}")
    if summary.first_error is not None:
        typer.echo(f"The first error is of {summary.first_error}")


@contextmanager
def progress_of(out: Path) -> Iterator[Any]:
    """A bar on a terminal, else a line now and then for whoever reads the log."""
    if not sys.stderr.isatty():
        yield Lines(lambda text: typer.echo(f"framefusion: {text}", err=True))
        return
    with Bars(rate=True) as shown:
        yield shown


class Lines:
    """Progress as text; a :class:`framefusion.progress.Progress`.

    Args:
        tell: told each line.
        clock: seconds that only grow.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._total: int | None = None
        self._done = 0
        self._begin = self._told = clock()

    def step(self, name: str, total: int | None = None) -> None:
        """Begin a step; nothing is told of one without parts."""
        self._total, self._done = total, 0
        self._begin = self._told = self._clock()

    def advance(self, parts: int) -> None:
        """So many parts of the step are done."""
        self._done += parts
        now = self._clock()
        if self._total is None or now - self._told < EVERY_SECONDS:
            return
        self._told = now
        rate = self._done / (now - self._begin)
        left = round((self._total - self._done) / rate)
        self._tell(
            f"{self._done} of {self._total} rows, {rate:.3g} a second, about "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )
