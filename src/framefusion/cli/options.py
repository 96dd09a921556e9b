"""Arguments and options that several commands share: single ones, and the groups that belong together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from framefusion.assets import BUNDLED, BUNDLED_FRAMES, DEFAULT_MODEL, OTHER_FRAMES
from framefusion.cli.errors import fail

DEFAULT_NEW_TOKENS = 64

DEFAULT_CHUNK = 32

_MODEL, _SHOWN, _REDUCTION, _HELD = "Model", "What the model is shown", "Reduction", "What is held"
"""Headings of ``--help``."""

_MEDIA = "Videos, in any format that FFmpeg reads, and photographs, in the order in which the model sees them."

MediaArgument = Annotated[list[str], typer.Argument(metavar="MEDIA", help=_MEDIA)]

MediaOrNoneArgument = Annotated[list[str] | None, typer.Argument(metavar="MEDIA", help=f"{_MEDIA} At least one.")]
"""Where the command itself says what is missing."""
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=f"A directory, a Hugging Face hub id, or {' or '.join(BUNDLED)} (default: the first).",
        rich_help_panel=_MODEL,
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="auto (as saved), float32, bfloat16 or float16 (fp32, bf16, fp16).",
        rich_help_panel=_MODEL,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the checkpoint. Off unless given.",
        rich_help_panel=_MODEL,
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        help=f"Frames to show of each video, spread evenly. Default: {BUNDLED_FRAMES} with the model {DEFAULT_MODEL}, "
        f"else {OTHER_FRAMES}.",
        rich_help_panel=_SHOWN,
    ),
]
NewTokensOption = Annotated[int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded: the arguments of :func:`framefusion.asking.loading.load`."""

    model: ModelOption = None
    dtype: DtypeOption = "auto"
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="A torch device. Default: a CUDA device if there is one, else cpu.", rich_help_panel=_MODEL
        ),
    ] = None
    attn: Annotated[
        str | None,
        typer.Option(
            "--attn",
            help="Attention implementation, such as sdpa or eager. Default: the model's choice.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    trust_remote_code: TrustOption = False
    tower_frames: Annotated[
        int | None,
        typer.Option(
            "--tower-frames",
            help="Frames of a video that the vision encoder is given at once, so that its memory does not grow with "
            "the video. Default: all.",
            rich_help_panel=_MODEL,
        ),
    ] = None

    def arguments(self, usual: str | None = None) -> dict[str, Any]:
        """The arguments of ``load``; ``usual`` is the model where none is named."""
        return {**dataclasses.asdict(self), "model": usual if self.model is None else self.model}


@dataclass(frozen=True)
class FrameOptions:
    """How many frames of each video the model is shown."""

    frames: FramesOption = None
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="Frames to show per second of video instead.", rich_help_panel=_SHOWN),
    ] = None


@dataclass(frozen=True)
class ReductionOptions:
    """What stays of the visual tokens."""

    cost: Annotated[
        float | None,
        typer.Option(
            "--cost",
            help="Mean share of visual tokens over all decoder layers, in (0, 1], spent in --stages. "
            "Default without --keep: 0.3.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            help="Share of visual tokens that stays, in (0, 1]: prune once. Or LAYER:SHARE,LAYER:SHARE… to prune "
            "before several layers; shares are of the original tokens.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None
    stages: Annotated[
        str | None,
        typer.Option(
            "--stages",
            help="Where --cost is spent: DEPTH:SHARE,DEPTH:SHARE…, behind which part of the layers what share stays of "
            "the tokens that the first stage keeps; or auto, those that fit the model. Default: 0:1,0.6667:0.25.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None
    segmentation: Annotated[
        str | None,
        typer.Option(
            "--segmentation",
            help="How the video is cut into segments: dp (default), frame-similarity, dyseg, windows (of 4 frames), "
            "frames or single.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None
    similarity: Annotated[
        float | None,
        typer.Option(
            "--similarity",
            help="Cosine similarity from which a patch resembles the frame before, with --segmentation "
            "frame-similarity. Default: 0.6.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None
    tower: Annotated[
        str | None,
        typer.Option(
            "--tower",
            help="changed: the vision tower encodes only what changed in a video, or changed:LEVELS, by more than so "
            "many grey levels (8); tome: it merges patches that look alike, or tome:WORK, down to that share of the "
            "work (2/3). Default: everything is encoded.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="All settings of the reduction from a file, as calibrate writes it; with its number of frames unless "
            "--frames or --fps is given.",
            rich_help_panel=_REDUCTION,
        ),
    ] = None


@dataclass(frozen=True)
class SessionOptions:
    """What a session holds of what it was shown."""

    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="The most to hold: visual tokens, such as 8192, or bytes, such as 2GiB. Beyond it what is older loses "
            "the tokens that add least.",
            rich_help_panel=_HELD,
        ),
    ] = None
    chunk: Annotated[
        int, typer.Option("--chunk", help="Frames that are encoded and prefilled at once.", rich_help_panel=_HELD)
    ] = DEFAULT_CHUNK

    def arguments(self) -> dict[str, Any]:
        """The arguments of :class:`framefusion.asking.sessions.Session`, checked before anything slow begins."""
        if self.chunk < 1:
            fail(f"--chunk must be at least 1, got {self.chunk}")
        return {"memory": None if self.memory is None else memory_of(self.memory), "chunk": self.chunk}


def memory_of(given: str) -> int | str:
    """What ``--memory`` says: visual tokens, or bytes as a text; refused where it is neither."""
    from framefusion.asking.sessions.memory import limit_of

    memory = int(given) if given.strip().isdecimal() else given
    limit_of(memory)
    return memory


@dataclass(frozen=True)
class WorkOptions:
    """How the many answers of an evaluation are come by."""

    jobs: Annotated[int, typer.Option("--jobs", help="Processes, with one thread each if there are several.")] = 1
    batch: Annotated[int, typer.Option("--batch", help="Questions at a time.")] = 8
    max_new_tokens: NewTokensOption = 16
    share: Annotated[
        bool,
        typer.Option(
            "--share/--no-share",
            help="Prefill once what the questions about a video have in common; answers are the same.",
        ),
    ] = True
