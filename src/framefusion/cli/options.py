"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from framefusion.assets import BUNDLED, BUNDLED_FRAMES, DEFAULT_MODEL, OTHER_FRAMES

DEFAULT_NEW_TOKENS = 64

MediaArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MEDIA",
        help="Videos, in any format that FFmpeg reads, and photographs, in the order in which the model sees them.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help=f"A directory, a Hugging Face hub id, or {' or '.join(BUNDLED)} (default: the first)."
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        help=f"Frames to show of each video, spread evenly. Default: {BUNDLED_FRAMES} with the model {DEFAULT_MODEL}, "
        f"else {OTHER_FRAMES}.",
    ),
]
FpsOption = Annotated[float | None, typer.Option("--fps", help="Frames to show per second of video instead.")]
CostOption = Annotated[
    float | None,
    typer.Option(
        "--cost",
        help="Mean share of visual tokens over all decoder layers, in (0, 1], spent in --stages. "
        "Default without --keep: 0.3.",
    ),
]
StagesOption = Annotated[
    str | None,
    typer.Option(
        "--stages",
        help="Where --cost is spent: DEPTH:SHARE,DEPTH:SHARE…, behind which part of the layers what share stays of the "
        "tokens that the first stage keeps; or auto, those that fit the model. Default: 0:1,0.6667:0.25.",
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
    str | None,
    typer.Option(
        "--segmentation",
        help="How the video is cut into segments: frame-similarity (default), dyseg, dp, windows (of 4 frames), frames "
        "or single.",
    ),
]
SimilarityOption = Annotated[
    float | None,
    typer.Option(
        "--similarity",
        help="Cosine similarity from which tokens of consecutive frames count as alike, for merging and for "
        "frame-similarity. Default: 0.6.",
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="All settings of the reduction from a file, as calibrate writes it; with its number of frames unless "
        "--frames or --fps is given.",
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
