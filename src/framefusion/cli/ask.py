"""Ask a question about videos and photographs, or reduce them and report what was kept."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from framefusion.cli import long
from framefusion.cli.common import check_writable, silence_transformers
from framefusion.cli.errors import fail, named, printable
from framefusion.cli.groups import spelled
from framefusion.cli.options import (
    FrameOptions,
    JsonOption,
    MediaArgument,
    MediaOrNoneArgument,
    ModelOptions,
    ReductionOptions,
    memory_of,
)
from framefusion.cli.progress import spinner
from framefusion.cli.reduction import check_options, shown_frames, stored_settings, warn_elsewhere
from framefusion.cli.request import AskOptions, InspectOptions, Request

if TYPE_CHECKING:
    from framefusion.asking.answers import Answer
    from framefusion.asking.loading import LoadedModel
    from framefusion.asking.report import ReportData
    from framefusion.reduction.settings_file import Calibration

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def ask(
    *,
    media: MediaOrNoneArgument = None,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOptions,
    shown: FrameOptions,
    reduction: ReductionOptions,
    own: AskOptions,
    json_: JsonOption = False,
) -> None:
    """Answer a question about videos and photographs with a share of their visual tokens.

    Photographs are reduced too; images=false in a file for --settings leaves them as they are.

    Without --cost and --keep the cost is 0.3: on average 30 % of the visual tokens in each decoder layer.
    """
    if not media:
        _refuse_alone(question)
    execute(Request(media or [], own, question, model, shown, reduction, json_))


def inspect(
    media: MediaArgument,
    model: ModelOptions,
    shown: FrameOptions,
    reduction: ReductionOptions,
    own: InspectOptions,
    json_: JsonOption = False,
) -> None:
    """Reduce videos and photographs without a question and report what was kept.

    The prompt is "Describe the video."; no answer is generated.
    """
    execute(Request(media, own, None, model, shown, reduction, json_))


COMMANDS = {"ask": ask, "inspect": inspect}


def execute(request: Request) -> ReportData | None:
    """Answer or reduce, write the files, and tell about it; None of a video that is shown in parts."""
    _check(request)
    own = request.own
    with spinner() as progress:
        found = _answer(request, progress)
        if found is None:
            assert isinstance(own, AskOptions)
            long.execute(request, own, progress)
            return None
        answer, loaded, calibration = found
        progress("Writing the report")
        data = write_report(request, answer)
    warn_elsewhere(request.shown, request.reduction, lambda: described(loaded), calibration)
    if request.json:
        from framefusion.asking.report import record

        written = {"report": own.report, "overlay": own.overlay}
        paths = {name: None if path is None else str(path) for name, path in written.items()}
        stages = {"stages_from": answer.summary.stages_from}
        typer.echo(printable(json.dumps({**record(data), **answer.provenance, **stages, **paths}, ensure_ascii=False)))
    else:
        _show(data, own)
    return data


def write_report(request: Request, answer: Answer) -> ReportData:
    """What the report of an answer shows; written where the request says."""
    from framefusion.asking.report import frame_strip, render, report_data

    own = request.own
    names = [printable(os.path.basename(source) or source) for source in request.media]
    data = report_data(answer, _command(request), names=names)
    try:
        if own.report is not None:
            own.report.write_text(render(data), encoding="utf-8", errors="replace")
        if own.overlay is not None:
            frame_strip(data.frames).save(own.overlay)
    except (OSError, ValueError) as error:
        fail(f"the report cannot be written: {error}")
    return data


def _check(request: Request) -> None:
    """Refuse what cannot be right before anything slow begins."""
    check_options(request.shown, request.reduction, request.own.max_new_tokens)
    if request.question is not None and not request.question.strip():
        fail("the question is empty")
    _check_order(request)
    overlay = request.own.overlay
    for path in (request.own.report, overlay):
        check_writable(path)
    chunk = request.own.chunk
    if chunk is not None and chunk < 1:
        fail(f"--chunk must be a whole number, at least 1, got {chunk}")
    if request.own.memory is not None:
        memory_of(request.own.memory)
    if request.own.in_parts and (request.own.compare or request.own.report is not None):
        given = "--memory" if chunk is None else "--chunk"
        fail(f"{given} lets frames go once they were shown, which --compare and --report need; leave one of them out")
    if overlay is not None and overlay.suffix.lower() not in PICTURES:
        fail(f"--overlay must end in {', '.join(PICTURES)}, got {overlay}")


def _refuse_alone(word: str) -> NoReturn:
    """Say what is missing where one word stands alone, which Typer takes for the question."""
    order = "first the videos, then the question: framefusion ask MEDIA... QUESTION"
    if _is_address(word) or os.path.exists(word) or (" " not in word and os.path.splitext(word)[1]):
        fail(f"the question is missing; {order}")
    fail(f"there is nothing to ask about; {order}")


def _check_order(request: Request) -> None:
    """Refuse a file where the question belongs."""
    question = request.question
    if question is None or not (_is_address(question) or os.path.isfile(question)):
        return
    swapped = any(not (_is_address(source) or os.path.exists(source)) for source in request.media)
    if swapped or os.path.splitext(question)[1]:
        fail(
            f"{named(question)} stands where the question belongs; the question comes last: "
            "framefusion ask MEDIA... QUESTION"
        )


def _is_address(source: str) -> bool:
    return source == "-" or ("://" in source and " " not in source)


def _answer(request: Request, progress: Callable[[str], Any]) -> tuple[Answer, LoadedModel, Calibration | None] | None:
    """Check, decode, load and ask; None where the video is to be shown in parts."""
    from framefusion.asking.media import check_source

    for source in request.media:
        check_source(source)
    progress("Starting")
    stored = stored_settings(request.reduction)
    frames = shown_frames(request.shown, request.model, stored.calibration)
    begin = time.perf_counter()
    media = None if request.own.in_parts else long.read(request, frames, progress)
    if media is None:
        return None
    decoding = time.perf_counter() - begin
    progress("Loading the model" if request.model.model is None else f"Loading {request.model.model}")
    silence_transformers()
    from framefusion.asking import ask as asking
    from framefusion.asking.loading import load

    loaded = load(**request.model.arguments())
    common: dict[str, Any] = {
        "model": loaded,
        "settings": stored.settings,
        "decode_seconds": decoding,
        "progress": progress,
    }
    if request.question is None:
        return asking.inspect(media, **common), loaded, stored.calibration
    own = request.own
    answer = asking.ask(media, request.question, max_new_tokens=own.max_new_tokens, compare=own.compare, **common)
    return answer, loaded, stored.calibration


def described(loaded: LoadedModel) -> str:
    """The model as calibrations name it."""
    from framefusion.asking.provenance import describe

    return describe(loaded)


def _show(data: ReportData, own: AskOptions | InspectOptions) -> None:
    from framefusion.asking.report import lines

    rows: list[tuple[str, str]] = []
    if data.question is not None and data.full_answer is not None:
        rows += [("All tokens", data.full_answer or "(no text)"), ("Reduced", data.answer or "(no text)")]
    elif data.question is not None:
        rows.append(("Answer", data.answer or "(no text)"))
    heading = len(rows)
    rows += lines(data)
    written = (("Report", own.report), ("Overlay", own.overlay))
    rows += [(name, str(path)) for name, path in written if path is not None]
    if sys.stdout.isatty():
        _show_styled(rows, heading)
        return
    width = max(len(label) for label, _ in rows) + 2
    for label, value in rows:
        typer.echo(f"{label:{width}}{value}")


def _show_styled(rows: list[tuple[str, str]], heading: int) -> None:
    """On a terminal: long values wrap under themselves, the answers stand out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for position, (label, value) in enumerate(rows):
        label_style, style = ("cyan", "bold") if position < heading else ("dim", "")
        grid.add_row(Text(label, style=label_style, no_wrap=True), Text(value, style=style))
    Console().print(grid)


def _command(request: Request) -> str:
    """The command line that repeats a request."""
    asked = ["inspect", *request.media] if request.question is None else ["ask", *request.media, request.question]
    options = spelled(request.model, request.shown, request.reduction, request.own)
    return shlex.join(["framefusion", *asked, *options])
