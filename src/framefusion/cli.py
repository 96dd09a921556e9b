"""The command line. Heavy imports stay inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from framefusion._version import __version__

if TYPE_CHECKING:
    from framefusion.ask import Answer
    from framefusion.loading import LoadedModel
    from framefusion.report import ReportData
    from framefusion.settings import FrameFusion

BUNDLED_FRAMES = 8
"""Frames shown to the bundled checkpoint unless said otherwise: the length it was trained on."""
OTHER_FRAMES = 32
"""Frames shown to any other model unless said otherwise."""
DEFAULT_NEW_TOKENS = 64
PICTURES = (".png", ".jpg", ".jpeg", ".webp")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask a video a question with a fraction of its visual tokens.",
)

VideoArgument = Annotated[Path, typer.Argument(help="A video file, in any format that FFmpeg reads.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A directory or a Hugging Face hub id. Default: the bundled checkpoint."),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        help=f"Frames to show, spread evenly. Default: {BUNDLED_FRAMES} with the bundled checkpoint, "
        f"else {OTHER_FRAMES}.",
    ),
]
FpsOption = Annotated[float | None, typer.Option("--fps", help="Frames to show per second of video instead.")]
CostOption = Annotated[
    float | None,
    typer.Option(
        "--cost",
        help="Mean share of visual tokens over all decoder layers, in (0, 1]: merge early, then prune once. "
        "Default without --keep: 0.3.",
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        help="Share of visual tokens that stays, in (0, 1]: prune once. Or LAYER:SHARE,LAYER:SHARE… to prune "
        "before several layers; shares are of the original tokens.",
    ),
]
SegmentationOption = Annotated[
    str,
    typer.Option(
        "--segmentation",
        help="How the video is cut into segments: frame-similarity, windows (of 4 frames) or single.",
    ),
]
SimilarityOption = Annotated[
    float,
    typer.Option(
        "--similarity",
        help="Cosine similarity from which tokens of consecutive frames count as alike, for merging and for "
        "frame-similarity.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="auto (as saved), float32, bfloat16 or float16 (fp32, bf16, fp16).")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="A torch device. Default: a CUDA device if there is one, else cpu.")
]
AttnOption = Annotated[
    str | None,
    typer.Option("--attn", help="Attention implementation, such as sdpa or eager. Default: the model's choice."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint. Off unless given.")
]


@dataclasses.dataclass
class _Request:
    """The options that ``ask`` and ``inspect`` share."""

    video: Path
    model: str | None = None
    frames: int | None = None
    fps: float | None = None
    cost: float | None = None
    keep: str | None = None
    segmentation: str = "frame-similarity"
    similarity: float = 0.6
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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"framefusion {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    pass


@app.command()
def ask(
    video: VideoArgument,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = None,
    frames: FramesOption = None,
    fps: FpsOption = None,
    cost: CostOption = None,
    keep: KeepOption = None,
    segmentation: SegmentationOption = "frame-similarity",
    similarity: SimilarityOption = 0.6,
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
    """Answer a question about a video with a share of its visual tokens.

    Without --cost and --keep the cost is 0.3: on average 30 % of the visual tokens in each decoder layer.
    """
    _execute(
        _Request(
            video=video,
            question=question,
            model=model,
            frames=frames,
            fps=fps,
            cost=cost,
            keep=keep,
            segmentation=segmentation,
            similarity=similarity,
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


@app.command()
def inspect(
    video: VideoArgument,
    model: ModelOption = None,
    frames: FramesOption = None,
    fps: FpsOption = None,
    cost: CostOption = None,
    keep: KeepOption = None,
    segmentation: SegmentationOption = "frame-similarity",
    similarity: SimilarityOption = 0.6,
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
    """Reduce a video without a question and report what was kept.

    The prompt is "Describe the video."; no answer is generated.
    """
    _execute(
        _Request(
            video=video,
            model=model,
            frames=frames,
            fps=fps,
            cost=cost,
            keep=keep,
            segmentation=segmentation,
            similarity=similarity,
            report=report,
            overlay=overlay,
            json=json_,
            dtype=dtype,
            device=device,
            attn=attn,
            trust_remote_code=trust_remote_code,
        )
    )


@app.command()
def bench(
    json_: Annotated[Path | None, typer.Option("--json", help="Write the measurements to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the sweep into this picture.")] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Timed runs of each way.")] = 5,
    sweep: Annotated[bool, typer.Option("--sweep/--no-sweep", help="Also vary the number of frames.")] = True,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    device: Annotated[str, typer.Option("--device", help="A torch device.")] = "cpu",
) -> None:
    """Time the selection beside the published system's ways, on random features."""
    for path in (json_, plot):
        _check_writable(path)
    with _progress() as progress:
        progress("Loading")
        from framefusion.bench import run

        try:
            result = run(
                sweep=sweep,
                iterations=iterations,
                threads=threads,
                json_path=json_,
                plot_path=plot,
                progress=progress,
                device=device,
            )
        except (ValueError, OSError, ImportError) as error:
            _fail(error)
    typer.echo(result.table())


@app.command()
def models(json_: JsonOption = False) -> None:
    """List the supported model families."""
    from framefusion.hf.families import table

    rows = table()
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(row["name"])
        for key, value in row.items():
            if key != "name":
                typer.echo(f"  {key.replace('_', ' '):13} {value}")


@app.command()
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
        _fail(f"cannot make the directory {out}: {error.strerror}")
    pairs = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    for kind in dict.fromkeys(pair["kind"] for pair in pairs):
        pair = next(pair for pair in pairs if pair["kind"] == kind)
        typer.echo(f"\n{pair['question']}  (right: {pair['answer']})")
        _execute(
            _Request(
                video=DEMO_VIDEO,
                question=pair["question"],
                keep="0.2",
                compare=True,
                report=out / f"{kind}.html",
            )
        )
    typer.echo(f"\nA real clip, {REAL_VIDEO.name}, at 20 %")
    _execute(
        _Request(
            video=REAL_VIDEO,
            frames=32,
            keep="0.2",
            # To the bundled model all backgrounds look much the same; its cuts show at a higher bound.
            similarity=0.9,
            report=out / "real-clip.html",
            overlay=out / "real-clip.png",
        )
    )


def main() -> None:
    """Entry point of the ``framefusion`` command."""
    for stream in (sys.stdout, sys.stderr):
        # an answer must not fail on a terminal that cannot show one of its characters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()


def _execute(request: _Request) -> None:
    if request.cost is not None and request.keep is not None:
        _fail("--keep and --cost exclude each other; give one of them")
    if request.frames is not None and request.fps is not None:
        _fail("--frames and --fps exclude each other; give one of them")
    if request.question is not None and not request.question.strip():
        _fail("the question is empty")
    if request.max_new_tokens < 1:
        _fail(f"--max-new-tokens must be at least 1, got {request.max_new_tokens}")
    for path in (request.report, request.overlay):
        _check_writable(path)
    if request.overlay is not None and request.overlay.suffix.lower() not in PICTURES:
        _fail(f"--overlay must end in {', '.join(PICTURES)}, got {request.overlay}")
    with _progress() as progress:
        answer, loaded = _answer(request, progress)
        progress("Writing the report")
        from framefusion.report import frame_strip, record, render, report_data

        provenance = _provenance(answer.settings, loaded)
        data = report_data(answer, _command(request), _listed(provenance))
        try:
            if request.report is not None:
                request.report.write_text(render(data), encoding="utf-8")
            if request.overlay is not None:
                frame_strip(data.frames).save(request.overlay)
        except (OSError, ValueError) as error:
            _fail(f"the report cannot be written: {error}")
    if request.json:
        written = {"report": request.report, "overlay": request.overlay}
        paths = {name: None if path is None else str(path) for name, path in written.items()}
        typer.echo(json.dumps({**record(data), **provenance, **paths}, ensure_ascii=False))
    else:
        _show(data, request)


def _answer(request: _Request, progress: Any) -> tuple[Answer, LoadedModel]:
    """Check, decode, load and ask; everything that a user can get wrong ends in one sentence."""
    from framefusion.video import VideoError, check_file, read_video

    try:
        check_file(request.video)
        progress("Starting")
        settings = _settings(request)
        progress(f"Decoding {request.video.name}")
        frames = request.frames
        if frames is None and request.fps is None:
            frames = BUNDLED_FRAMES if request.model is None else OTHER_FRAMES
        video = read_video(request.video, frames=frames, fps=request.fps)
    except VideoError as error:
        _fail(error)

    progress("Loading the model" if request.model is None else f"Loading {request.model}")
    _silence_transformers()
    from framefusion.ask import AskError
    from framefusion.ask import ask as ask_video
    from framefusion.ask import inspect as inspect_video
    from framefusion.hf import UnsupportedModelError
    from framefusion.loading import ModelError, load

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
            return inspect_video(video, **common), loaded
        answer = ask_video(
            video,
            request.question,
            max_new_tokens=request.max_new_tokens,
            compare=request.compare,
            **common,
        )
        return answer, loaded
    except (ModelError, AskError, UnsupportedModelError) as error:
        _fail(error)


def _settings(request: _Request) -> FrameFusion:
    from framefusion.settings import FrameFusion

    try:
        return FrameFusion(
            cost=request.cost,
            keep=_parse_keep(request.keep),
            segmentation=request.segmentation,  # type: ignore[arg-type]
            similarity_lower_bound=request.similarity,
        )
    except ValueError as error:
        _fail(error)


def _parse_keep(text: str | None) -> float | dict[int, float] | None:
    """``"0.2"`` or ``"2:0.5,14:0.1"``."""
    if text is None:
        return None
    try:
        if ":" not in text:
            return float(text)
        pairs = [part.split(":") for part in text.split(",")]
        return {int(layer): float(share) for layer, share in pairs}
    except ValueError:
        _fail(f"--keep must be a share such as 0.2 or LAYER:SHARE pairs such as 2:0.5,14:0.1, got {text!r}")


def _check_writable(path: Path | None) -> None:
    """Refuse a path before the slow work rather than after it."""
    if path is None:
        return
    parent = path.absolute().parent
    if path.is_dir():
        _fail(f"cannot write {path}: it is a directory")
    if not parent.is_dir():
        _fail(f"cannot write {path}: there is no directory {parent}")
    if not os.access(path if path.exists() else parent, os.W_OK):
        _fail(f"cannot write {path}: permission denied")


def _fail(reason: object) -> NoReturn:
    """Print one sentence and leave with exit code 2."""
    typer.echo(f"framefusion: {' '.join(str(reason).split()).rstrip('.')}", err=True)
    raise typer.Exit(2)


def _silence_transformers() -> None:
    """Loading bars and advice for programmers have no place around an answer."""
    warnings.filterwarnings("ignore")
    import huggingface_hub
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()


@contextmanager
def _progress() -> Iterator[Any]:
    """A function that names the step under way: a spinner on a terminal, nothing when piped."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console

    with Console(stderr=True).status("Starting") as status:
        yield lambda step: status.update(f"{step} …")


def _show(data: ReportData, request: _Request) -> None:
    from framefusion.report import lines

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


def _command(request: _Request) -> str:
    """The command line that repeats a request."""
    words = ["framefusion", "inspect" if request.question is None else "ask", str(request.video)]
    words += [] if request.question is None else [request.question]
    options: Mapping[str, object | None] = {
        "--model": request.model,
        "--frames": request.frames,
        "--fps": request.fps,
        "--cost": request.cost,
        "--keep": request.keep,
        "--segmentation": None if request.segmentation == "frame-similarity" else request.segmentation,
        "--similarity": None if request.similarity == 0.6 else request.similarity,
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

    return {
        "model": {
            "model": loaded.name,
            "class": type(loaded.model).__name__,
            "dtype": loaded.dtype,
            "device": loaded.device,
            "attention": loaded.attention,
        },
        "settings": dataclasses.asdict(settings),
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
