"""What ``ask`` and ``inspect`` are asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from framefusion.cli.options import DEFAULT_NEW_TOKENS, FrameOptions, ModelOptions, NewTokensOption, ReductionOptions

LONG = 256
"""Frames from which on a video is shown in parts without being asked to."""


@dataclass(frozen=True)
class AskOptions:
    """Of ``ask`` alone."""

    compare: Annotated[
        bool, typer.Option("--compare", help="Answer with all tokens too, timed in turns after a warm-up.")
    ] = False
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report to this file.")] = None
    max_new_tokens: NewTokensOption = DEFAULT_NEW_TOKENS
    chunk: Annotated[
        int | None,
        typer.Option(
            "--chunk",
            help="Show a video in parts of so many frames, so that memory stays bounded. Default: 32 from "
            f"{LONG} frames on; one part below.",
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="The most to hold of what is shown: visual tokens, such as 8192, or bytes, such as 2GiB. Beyond it "
            "what is older loses the tokens that add least. Shows a video in parts, however short. Default: no limit.",
        ),
    ] = None
    overlay: ClassVar[Path | None] = None

    @property
    def in_parts(self) -> bool:
        """Whether videos are to be shown in parts, however short."""
        return self.chunk is not None or self.memory is not None


@dataclass(frozen=True)
class InspectOptions:
    """Of ``inspect`` alone."""

    report: Annotated[Path, typer.Option("--report", help="Where to write the HTML report.")] = Path("inspect.html")
    overlay: Annotated[
        Path | None, typer.Option("--overlay", help="Write the marked frames to this picture too, such as strip.png.")
    ] = None
    compare: ClassVar[bool] = False
    chunk: ClassVar[int | None] = None
    memory: ClassVar[str | None] = None
    in_parts: ClassVar[bool] = False
    max_new_tokens: ClassVar[int] = 1


@dataclass(frozen=True)
class Request:
    """What ``ask`` and ``inspect`` were asked for; ``question`` is None for ``inspect``."""

    media: list[str]
    own: AskOptions | InspectOptions
    question: str | None = None
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    shown: FrameOptions = dataclasses.field(default_factory=FrameOptions)
    reduction: ReductionOptions = dataclasses.field(default_factory=ReductionOptions)
    json: bool = False
