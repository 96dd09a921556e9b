"""A quality floor instead of a ratio."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from framefusion.assets import usual_frames
from framefusion.cli.common import check_writable, silence_transformers, table_console
from framefusion.cli.errors import fail, resumable
from framefusion.cli.options import FramesOption, JsonOption, ModelOptions, WorkOptions
from framefusion.cli.progress import bars
from framefusion.cli.questions import check_directory, command_line, dataset, shares, usual_model

if TYPE_CHECKING:
    from framefusion.reduction.amounts import Stages
    from framefusion.reduction.settings_file import Calibration, StoredSettings, Trial

BUDGETS = "1.0,0.7,0.5,0.4,0.3,0.25,0.2,0.15,0.1,0.07,0.05"
METHOD = "segment-dpp-two-stage"


@dataclass(frozen=True)
class TrialOptions:
    """Which budgets are tried, and on what."""

    method: Annotated[str, typer.Option("--method", help="Whose budgets to try (docs/how-it-works/methods.md).")] = (
        METHOD
    )
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages",
            help="Where every budget is spent, DEPTH:SHARE,… as of ask; or auto: probe the model first, with 8 videos "
            "that are then left out.",
        ),
    ] = None
    budgets: Annotated[
        str, typer.Option("--budgets", help="Mean shares of visual tokens over the decoder layers, each in (0, 1].")
    ] = BUDGETS
    unit: Annotated[
        str,
        typer.Option(
            "--unit",
            help="What counts as one sample: video, or question for a statement about further questions about these "
            "very videos.",
        ),
    ] = "video"
    videos: Annotated[
        int | None, typer.Option("--videos", help="How many videos. Default: 100 of needle, or all of a file.")
    ] = None


def calibrate(
    *,
    data: Annotated[
        str,
        typer.Option("--data", help="Your questions, a file of JSON lines (see docs/guides/evaluation.md); or needle."),
    ],
    floor: Annotated[
        float,
        typer.Option(
            "--floor",
            help="Smallest share of the accuracy with all tokens that is accepted, or, without labels, of "
            "unchanged answers.",
        ),
    ] = 0.98,
    confidence: Annotated[float, typer.Option("--confidence", help="That the floor is kept.")] = 0.95,
    model: ModelOptions,
    frames: FramesOption = None,
    tried: TrialOptions,
    settings: Annotated[
        Path, typer.Option("--settings", help="Where to write the settings; ask --settings reads them.")
    ] = Path("settings.json"),
    out: Annotated[
        Path, typer.Option("--out", help="Directory for the answers; what it holds already is not asked again.")
    ] = Path("out/calibrate"),
    work: WorkOptions,
    json_: JsonOption = False,
) -> None:
    """Find the smallest budget that keeps a share of the accuracy on your videos, and write its settings.

    Interrupt it whenever you like; the same command goes on where it was.
    """
    if tried.videos is not None and tried.videos < 1:
        fail(f"--videos must be at least 1, got {tried.videos}")
    budgets, stages = shares(tried.budgets), _stages(tried.stages)
    check_directory(out)
    check_writable(settings)
    with bars() as progress, resumable(out):
        silence_transformers()
        from framefusion import evaluation
        from framefusion.evaluation.calibration import calibrate as calibrate_model
        from framefusion.reduction.settings_file import save_settings

        arguments = model.arguments(usual_model(data))
        found = calibrate_model(
            dataset(data, tried.videos, 0),
            out,
            floor,
            confidence=confidence,
            method=tried.method,
            stages=stages,
            budgets=budgets,
            frames=frames if frames is not None else usual_frames(arguments["model"]),
            unit=tried.unit,  # type: ignore[arg-type]
            jobs=work.jobs,
            generating=evaluation.Generating(work.batch, work.max_new_tokens, work.share),
            model=arguments,
            command=command_line(sys.argv[1:]),
            progress=progress,
            prepare=silence_transformers,
        )
        save_settings(settings, found.settings, found.calibration)
    if json_:
        typer.echo(json.dumps({**_plain(found), "written": str(settings)}, ensure_ascii=False))
    else:
        _show(found, settings)


COMMANDS = {"calibrate": calibrate}


def _stages(text: str | None) -> Stages | Literal["auto"] | None:
    if text is None:
        return None
    from framefusion.reduction.amounts import parse_stages

    try:
        return parse_stages(text)
    except ValueError as error:
        fail(error)


def _plain(found: StoredSettings) -> dict[str, object]:
    from framefusion.reduction.plain import to_plain

    assert found.calibration is not None
    return {"settings": to_plain(found.settings), "calibration": dataclasses.asdict(found.calibration)}


def _show(found: StoredSettings, path: Path) -> None:
    from rich import box
    from rich.table import Table

    calibration = found.calibration
    assert calibration is not None
    kept = {
        "accuracy": "of the accuracy with all tokens",
        "agreement": "of the answers as with all tokens",
        "mixed": "of the accuracy with all tokens, or of its answers where there is no label",
    }[calibration.measure]
    typer.echo(
        f"Floor: {100 * calibration.floor:g} % {kept}, with {100 * calibration.confidence:g} % confidence. "
        f"{calibration.questions} questions, {calibration.units} {calibration.unit}s, {calibration.frames} frames; "
        f"{_percent(calibration.full)} right with all tokens."
    )
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("budget", "tokens", "kept", "at least"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for entry in calibration.budgets:
        values = [_percent(value) for value in (entry.budget, entry.share, entry.estimate, entry.lower)]
        table.add_row(*values, _verdict(entry, calibration), style="bold" if entry.budget == calibration.budget else "")
    table_console().print(table)
    reasons = [entry.reason for entry in calibration.budgets if entry.reason is not None]
    if reasons:
        typer.echo(f"Of what cannot be reached: {reasons[0]}")
    if calibration.budget == 1:
        typer.echo(f"No smaller budget is known to keep the floor: {path} keeps all tokens.")
    else:
        typer.echo(f"{_percent(calibration.budget)} of the tokens keep the floor. Written to {path}:")
        typer.echo(f"  framefusion ask VIDEO QUESTION --settings {path}")


def _verdict(entry: Trial, calibration: Calibration) -> str:
    if entry.outcome == "unclear":
        needed = "far more" if entry.needed is None else f"about {entry.needed}"
        return f"too few {calibration.unit}s to know; {needed} like these would tell"
    return {
        "holds": "keeps the floor",
        "falls": "below the floor",
        "untested": "not tested",
        "unreachable": "cannot be reached",
    }[entry.outcome]


def _percent(value: float | None) -> str:
    # Rounded down: a bound is never told higher than it is.
    return "" if value is None else f"{math.floor(1000 * value + 1e-6) / 10:g} %"
