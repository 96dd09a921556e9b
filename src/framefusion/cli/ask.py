"""Ask a question about videos and photographs, or reduce them and report what was kept."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framefusion._version import __version__
from framefusion.assets import usual_frames
from framefusion.cli.common import (
    check_writable,
    fail,
    named,
    printable,
    progress_display,
    silence_transformers,
)
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
    MediaArgument,
    ModelOption,
    SegmentationOption,
    SettingsOption,
    SimilarityOption,
    StagesOption,
    TrustOption,
)

if TYPE_CHECKING:
    from framefusion.asking.ask import Answer
    from framefusion.asking.loading import LoadedModel
    from framefusion.asking.report import ReportData
    from framefusion.reduction.settings import FrameFusion
    from framefusion.reduction.settings_file import Calibration, StoredSettings

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass
class Request:
    """The options that ``ask`` and ``inspect`` share."""

    media: list[str] = dataclasses.field(default_factory=list)
    model: str | None = None
    frames: int | None = None
    fps: float | None = None
    cost: float | None = None
    keep: str | None = None
    stages: str | None = None
    segmentation: str | None = None
    similarity: float | None = None
    settings: Path | None = None
    report: Path | None = None
    json: bool = False
    dtype: str = "auto"
    device: str | None = None
    attn: str | None = None
    trust_remote_code: bool = False
    question: str | None = None
    compare: bool = False
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    overlay: Path | None = None


def ask(
    media: MediaArgument,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = None,
    frames: FramesOption = None,
    fps: FpsOption = None,
    cost: CostOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    segmentation: SegmentationOption = None,
    similarity: SimilarityOption = None,
    settings: SettingsOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Answer with all tokens too, timed in turns after a warm-up.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report to this file.")] = None,
    json_: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    attn: AttnOption = None,
    trust_remote_code: TrustOption = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")
    ] = DEFAULT_NEW_TOKENS,
) -> None:
    """Answer a question about videos and photographs with a share of their visual tokens.

    Photographs are reduced too; images=false in a file for --settings leaves them as they are.

    Without --cost and --keep the cost is 0.3: on average 30 % of the visual tokens in each decoder layer.
    """
    execute(
        Request(
            media=media,
            question=question,
            model=model,
            frames=frames,
            fps=fps,
            cost=cost,
            keep=keep,
            stages=stages,
            segmentation=segmentation,
            similarity=similarity,
            settings=settings,
            compare=compare,
            report=report,
            json=json_,
            dtype=dtype,
            device=device,
            attn=attn,
            trust_remote_code=trust_remote_code,
            max_new_tokens=max_new_tokens,
        )
    )


def inspect(
    media: MediaArgument,
    model: ModelOption = None,
    frames: FramesOption = None,
    fps: FpsOption = None,
    cost: CostOption = None,
    keep: KeepOption = None,
    stages: StagesOption = None,
    segmentation: SegmentationOption = None,
    similarity: SimilarityOption = None,
    settings: SettingsOption = None,
    report: Annotated[Path, typer.Option("--report", help="Where to write the HTML report.")] = Path("inspect.html"),
    overlay: Annotated[
        Path | None, typer.Option("--overlay", help="Write the marked frames to this picture too, such as strip.png.")
    ] = None,
    json_: JsonOption = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    attn: AttnOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Reduce videos and photographs without a question and report what was kept.

    The prompt is "Describe the video."; no answer is generated.
    """
    execute(
        Request(
            media=media,
            model=model,
            frames=frames,
            fps=fps,
            cost=cost,
            keep=keep,
            stages=stages,
            segmentation=segmentation,
            similarity=similarity,
            settings=settings,
            report=report,
            overlay=overlay,
            json=json_,
            dtype=dtype,
            device=device,
            attn=attn,
            trust_remote_code=trust_remote_code,
        )
    )


COMMANDS = {"ask": ask, "inspect": inspect}


def check_options(request: Request) -> None:
    """Refuse options that contradict each other before anything slow begins."""
    if request.cost is not None and request.keep is not None:
        fail("--keep and --cost exclude each other; give one of them")
    if request.settings is not None:
        for option in ("cost", "keep", "stages", "segmentation", "similarity"):
            if getattr(request, option) is not None:
                fail(f"--settings and --{option} exclude each other; the file says all about the reduction")
    if request.frames is not None and request.fps is not None:
        fail("--frames and --fps exclude each other; give one of them")
    if request.max_new_tokens < 1:
        fail(f"--max-new-tokens must be at least 1, got {request.max_new_tokens}")


def execute(request: Request) -> None:
    check_options(request)
    if request.question is not None and not request.question.strip():
        fail("the question is empty")
    _check_order(request)
    for path in (request.report, request.overlay):
        check_writable(path)
    if request.overlay is not None and request.overlay.suffix.lower() not in PICTURES:
        fail(f"--overlay must end in {', '.join(PICTURES)}, got {request.overlay}")
    with progress_display() as progress:
        answer, loaded, calibration = _answer(request, progress)
        progress("Writing the report")
        from framefusion.asking.report import frame_strip, record, render, report_data

        provenance = _provenance(answer.settings, loaded)
        names = [printable(os.path.basename(source) or source) for source in request.media]
        data = report_data(answer, _command(request), _listed(provenance), names)
        try:
            if request.report is not None:
                request.report.write_text(render(data), encoding="utf-8", errors="replace")
            if request.overlay is not None:
                frame_strip(data.frames).save(request.overlay)
        except (OSError, ValueError) as error:
            fail(f"the report cannot be written: {error}")
    doubt(request, lambda: _described(loaded), calibration)
    if request.json:
        written = {"report": request.report, "overlay": request.overlay}
        stages = {"stages_from": answer.summary.stages_from}
        paths = {name: None if path is None else str(path) for name, path in written.items()}
        typer.echo(printable(json.dumps({**record(data), **provenance, **stages, **paths}, ensure_ascii=False)))
    else:
        _show(data, request)


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


def _answer(request: Request, progress: Any) -> tuple[Answer, LoadedModel, Calibration | None]:
    """Check, decode, load and ask; everything that a user can get wrong ends in one sentence."""
    from framefusion.asking.media import check_source, read_media
    from framefusion.asking.video import VideoError

    try:
        for source in request.media:
            check_source(source)
        progress("Starting")
        stored = stored_settings(request)
        settings, calibration = stored.settings, stored.calibration
        media = []
        for source in request.media:
            progress(f"Decoding {named(source)}")
            media.append(read_media(source, frames=shown_frames(request, calibration), fps=request.fps))
    except VideoError as error:
        fail(error)

    progress("Loading the model" if request.model is None else f"Loading {request.model}")
    silence_transformers()
    from framefusion.asking.ask import AskError
    from framefusion.asking.ask import ask as ask_model
    from framefusion.asking.ask import inspect as inspect_media
    from framefusion.asking.loading import ModelError, load
    from framefusion.hf import UnsupportedModelError

    try:
        loaded = load(
            request.model,
            dtype=request.dtype,
            device=request.device,
            attn=request.attn,
            trust_remote_code=request.trust_remote_code,
        )
        common = {
            "model": loaded.model,
            "processor": loaded.processor,
            "settings": settings,
            "progress": progress,
        }
        if request.question is None:
            return inspect_media(media, **common), loaded, calibration
        answer = ask_model(
            media,
            request.question,
            max_new_tokens=request.max_new_tokens,
            compare=request.compare,
            **common,
        )
        return answer, loaded, calibration
    except (ModelError, AskError, UnsupportedModelError) as error:
        fail(error)


def shown_frames(request: Request, calibration: Calibration | None) -> int | None:
    """How many frames to show; None if that depends on the video."""
    if request.frames is not None or request.fps is not None:
        return request.frames
    return usual_frames(request.model) if calibration is None else calibration.frames


def stored_settings(request: Request) -> StoredSettings:
    """The settings that the options say, or their file."""
    from framefusion.reduction.settings import FrameFusion, parse_keep, parse_stages
    from framefusion.reduction.settings_file import StoredSettings, read

    try:
        keep = None if request.keep is None else parse_keep(request.keep)
    except ValueError as error:
        fail(f"--keep {error}")
    try:
        if request.settings is not None:
            return read(request.settings)
        given = {"segmentation": request.segmentation, "similarity_lower_bound": request.similarity}
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        stages = None if request.stages is None else parse_stages(request.stages)
        return StoredSettings(FrameFusion(cost=request.cost, keep=keep, stages=stages, **chosen))
    except ValueError as error:
        fail(error)


def _described(loaded: LoadedModel) -> str:
    from framefusion.asking.provenance import describe

    return describe(loaded)


def doubt(request: Request, described: Callable[[], str], calibration: Calibration | None) -> None:
    """Say where a floor was not shown: on another model, or another number of frames."""
    if calibration is None:
        return
    elsewhere = []
    if calibration.model != described():
        elsewhere.append(f"the model {calibration.model}")
    if request.fps is not None or request.frames not in (None, calibration.frames):
        elsewhere.append(f"{calibration.frames} frames")
    if elsewhere:
        typer.echo(
            f"framefusion: {request.settings} was calibrated on {' and '.join(elsewhere)}; its floor of "
            f"{calibration.floor:g} may not hold here",
            err=True,
        )


def _show(data: ReportData, request: Request) -> None:
    from framefusion.asking.report import lines

    rows: list[tuple[str, str]] = []
    if data.question is not None and data.full_answer is not None:
        rows += [("All tokens", data.full_answer or "(no text)"), ("Reduced", data.answer or "(no text)")]
    elif data.question is not None:
        rows.append(("Answer", data.answer or "(no text)"))
    heading = len(rows)
    rows += lines(data)
    rows += [
        (name, str(path))
        for name, path in (("Report", request.report), ("Overlay", request.overlay))
        if path is not None
    ]
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
    words = ["framefusion", "inspect" if request.question is None else "ask", *request.media]
    words += [] if request.question is None else [request.question]
    options: Mapping[str, object | None] = {
        "--model": request.model,
        "--frames": request.frames,
        "--fps": request.fps,
        "--cost": request.cost,
        "--keep": request.keep,
        "--stages": request.stages,
        "--segmentation": request.segmentation,
        "--similarity": request.similarity,
        "--settings": request.settings,
        "--report": request.report,
        "--overlay": request.overlay,
        "--dtype": None if request.dtype == "auto" else request.dtype,
        "--device": request.device,
        "--attn": request.attn,
        "--max-new-tokens": None if request.max_new_tokens == DEFAULT_NEW_TOKENS else request.max_new_tokens,
    }
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    words += ["--compare"] if request.compare else []
    words += ["--trust-remote-code"] if request.trust_remote_code else []
    return shlex.join(words)


def _provenance(settings: FrameFusion, loaded: LoadedModel) -> dict[str, dict[str, Any]]:
    """Names and values that a reader needs to repeat the run, in groups."""
    import torch
    import transformers

    from framefusion.reduction.settings_file import to_plain

    return {
        "model": {
            "model": loaded.name,
            "class": type(loaded.model).__name__,
            "dtype": loaded.dtype,
            "device": loaded.device,
            "attention": loaded.attention,
        },
        "settings": to_plain(settings),
        "versions": {
            "framefusion": __version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
        },
    }


def _listed(provenance: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """The same as names and texts for the report; settings that are not in use are left out."""
    return [
        (name.replace("_", " "), str(value))
        for group in provenance.values()
        for name, value in group.items()
        if value is not None
    ]
