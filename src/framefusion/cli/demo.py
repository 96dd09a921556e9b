"""The bundled checkpoint on the bundled videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from framefusion.cli.ask import AskOptions, InspectOptions, Request, execute
from framefusion.cli.errors import fail
from framefusion.cli.options import FrameOptions, ReductionOptions

if TYPE_CHECKING:
    from framefusion.asking.report import ReportData


def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory for the reports; made if it does not exist.")] = Path(
        "out"
    ),
) -> None:
    """Ask the bundled video a question of each kind with all tokens and with 20 %, then reduce a real clip."""
    from framefusion.assets import DEMO_QUESTIONS, DEMO_VIDEO, REAL_VIDEO

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the directory {out}: {error.strerror}")
    pairs = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    compared: dict[Path, ReportData] = {}
    for kind in dict.fromkeys(pair["kind"] for pair in pairs):
        pair = next(pair for pair in pairs if pair["kind"] == kind)
        typer.echo(f"\n{pair['question']}  (right: {pair['answer']})")
        report = out / f"{kind}.html"
        own = AskOptions(compare=True, report=report)
        data = execute(Request([str(DEMO_VIDEO)], own, pair["question"], reduction=ReductionOptions(cost=0.2)))
        assert data is not None  # the video is short
        compared[report] = data
    typer.echo(f"\nA real clip, {REAL_VIDEO.name}, at 20 %")
    execute(
        Request(
            [str(REAL_VIDEO)],
            InspectOptions(out / "real-clip.html", out / "real-clip.png"),
            shown=FrameOptions(frames=32),
            # To the bundled model all backgrounds look alike, token by token; the frames' means tell them apart.
            reduction=ReductionOptions(keep="0.2", segmentation="dyseg"),
        )
    )
    typer.echo(f"\n{ending(compared)}")


def ending(compared: Mapping[Path, ReportData]) -> str:
    """How many answers are the same, and which report to open first: one whose answers differ, if there is one.

    Args:
        compared: what each report shows, in the order of the questions.
    """
    differ = [path for path, data in compared.items() if not data.same_answer]
    slower = sum(_slower(data) for data in compared.values())
    said = (
        f"{len(compared) - len(differ)} of {len(compared)} questions have the same answer with all tokens and with 20 %"
    )
    if slower:
        said += f"; {slower} took longer with 20 %: the bundled model is too small for its times to mean much"
    return f"{said}. Look first at {next(iter(differ or compared))}"


def _slower(data: ReportData) -> bool:
    """Whether one of the times that are told says that fewer tokens took longer."""
    inside = (data.full_seconds_to_first_token, data.seconds_to_first_token)
    told = ((data.full_seconds, data.seconds), inside)
    return any(before is not None and now is not None and now > before for before, now in told)


COMMANDS = {"demo": demo}
