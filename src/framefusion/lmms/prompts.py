"""Prompts from what tasks give: a text with any number of videos and pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.encodings import Prompt
from framefusion.asking.media import Media, read_media
from framefusion.asking.prompts import turn_inputs
from framefusion.asking.video import FitFrames, Video
from framefusion.errors import ArgumentError

PLACEHOLDER = "<image>"
"""Where a task wants a picture inside its text."""

Visual = Media


@dataclass(frozen=True)
class Sample:
    """One prompt of one user turn.

    Attributes:
        text: what is asked. If it has as many ``"<image>"`` as there are pictures, they stand there.
        visuals: videos and pictures in order; they come before the text.
    """

    text: str
    visuals: tuple[Visual, ...] = ()

    @property
    def shape(self) -> tuple[Any, ...]:
        """Equal for samples that fit into one batch: kind and size of each visual."""
        return tuple(
            ("video", *visual.frames.shape) if isinstance(visual, Video) else ("image", *visual.size)
            for visual in self.visuals
        )

    def same_as(self, other: Sample) -> bool:
        """Whether the text is the same, and the visuals are the very ones."""
        return self.text == other.text and list(map(id, self.visuals)) == list(map(id, other.visuals))

    @property
    def content(self) -> list[dict[str, str]]:
        """The user turn, as chat templates take it.

        Raises:
            ValueError: the text has ``"<image>"``, but not once for each picture.
        """
        kinds = ["video" if isinstance(visual, Video) else "image" for visual in self.visuals]
        parts = self.text.split(PLACEHOLDER)
        if len(parts) == 1:
            return [*({"type": kind} for kind in kinds), {"type": "text", "text": self.text}]
        if kinds != ["image"] * (len(parts) - 1):
            shown = f"{kinds.count('image')} pictures and {kinds.count('video')} videos"
            raise ArgumentError(
                f"the text has {PLACEHOLDER} {len(parts) - 1} times, and there are {shown}; it must stand there once "
                "for each picture, or not at all."
            )
        content: list[dict[str, str]] = []
        for number, part in enumerate(parts):
            content += [{"type": "image"}] if number else []
            content += [{"type": "text", "text": part}] if part else []
        return content


def read_visual(given: Any, frames: int | None, fps: float | None, fit: FitFrames | None = None) -> Visual:
    """A video or picture of a task.

    Args:
        given: a PIL image, or the path of a video or picture.
        frames: to take from a video, evenly spread.
        fps: frames per second of video instead.
        fit: what resizes the frames of a video as they are read.

    Raises:
        ValueError: it is something else, or cannot be read.
    """
    if isinstance(given, Image.Image):
        return upright_rgb(given)
    if not isinstance(given, (str, os.PathLike)):
        raise ArgumentError(
            f"a visual must be a PIL image or the path of a video or picture, got {type(given).__name__}; sound, and "
            "parts of videos, are not supported."
        )
    return _read(os.fspath(given), frames, fps, fit)


@lru_cache(maxsize=1)
def _read(path: str, frames: int | None, fps: float | None, fit: FitFrames | None) -> Visual:
    """Tasks ask several questions about one video, one after the other."""
    return read_media(path, frames, fps, fit)


def prompt(sample: Sample, model: Any, processor: Any) -> Prompt:
    """The model's inputs for one sample, on its device and in its dtype.

    Raises:
        ValueError: see :attr:`Sample.content`; or the processor has no chat template, refuses the sample, or leaves a
            video or picture out.
    """
    videos = [visual for visual in sample.visuals if isinstance(visual, Video)]
    pictures = [visual for visual in sample.visuals if not isinstance(visual, Video)]
    return Prompt(dict(turn_inputs(sample.content, videos, pictures, model, processor)), {})
