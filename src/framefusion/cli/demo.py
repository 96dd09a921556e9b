"""The bundled checkpoint on the bundled videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from framefusion.cli.ask import AskOptions, InspectOptions, Request, execute
from framefusion.cli.errors import fail
from framefusion.cli.options import FrameOptions, ReductionOptions


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
    for kind in dict.fromkeys(pair["kind"] for pair in pairs):
        pair = next(pair for pair in pairs if pair["kind"] == kind)
        typer.echo(f"\n{pair['question']}  (right: {pair['answer']})")
        execute(
            Request(
                [str(DEMO_VIDEO)],
                AskOptions(compare=True, report=out / f"{kind}.html"),
                pair["question"],
                reduction=ReductionOptions(cost=0.2),
            )
        )
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


COMMANDS = {"demo": demo}
