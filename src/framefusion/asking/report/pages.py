"""Reports as things to keep, to write and to look at: of an answer, and of a run with what it was shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.frames import frames_of, is_frames
from framefusion.asking.media import Media, read_media
from framefusion.asking.report.data import report_data
from framefusion.asking.report.html import render
from framefusion.asking.video import Video
from framefusion.errors import ArgumentError, ArgumentTypeError
from framefusion.hf import Run
from framefusion.hf.summary import Summary
from framefusion.hf.timing import Times
from framefusion.reduction.held import Stage
from framefusion.reduction.layout import VisualLayout

if TYPE_CHECKING:
    from framefusion.asking.answers import Answer


@dataclass(frozen=True)
class Report:
    """A report. ``str()`` is the page, one HTML file that needs nothing else.

    Attributes:
        html: the page.
        path: where it was written; None if it was not.
    """

    html: str
    path: Path | None = None

    def __str__(self) -> str:
        return self.html

    def __repr__(self) -> str:
        size = f"{len(self.html.encode()) / 1024:.0f} KiB"
        where = "save('report.html') writes it" if self.path is None else f"written to {self.path}"
        return f"<Report of {size}, {where}>"

    def save(self, path: str | os.PathLike[str]) -> Report:
        """Write the page.

        Raises:
            OSError: it cannot be written.
        """
        target = Path(path)
        target.write_text(self.html, encoding="utf-8", errors="replace")
        return Report(self.html, target)


@dataclass(frozen=True)
class Prefilled:
    """What a run tells of its latest prefill, with what :func:`report_data` asks of an answer."""

    text: str | None
    question: str | None
    summary: Summary
    stages: list[Stage]
    layout: VisualLayout
    segments: Tensor | None
    times: Times
    media: tuple[Media, ...]
    names: tuple[str, ...]
    full: None = None
    seconds_to_first_token: None = None
    timing: str = ""
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)


def report_of(answer: Answer | Prefilled, path: str | os.PathLike[str] | None = None) -> Report:
    """The report of an answer; written to ``path`` if one is given."""
    made = Report(render(report_data(answer)))
    return made if path is None else made.save(path)


def report(
    run: Run,
    media: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    question: str | None = None,
    answer: str | None = None,
    frames: int | None = None,
) -> Report:
    """The HTML report of the latest prefill of a run, over what the model was shown in it::

        with framefusion.attach(model, framefusion.FrameFusion(cost=0.2)) as run:
            model.generate(**inputs)
        framefusion.report(run, frames, "kept.html")

    Args:
        run: of :func:`framefusion.attach`; it may be detached by now.
        media: what was shown: frames ``(T, H, W, 3)`` uint8, a list of frames, a
            :class:`~framefusion.asking.video.Video`, a PIL image, or a file, of which frames are read at equal
            intervals; a list of these for several videos and photographs.
        path: where to write the page; default nowhere.
        question: what was asked, for the page.
        answer: what was answered; with ``question`` only.
        frames: of a file: how many the model was shown. Default one for each temporal position of the video's tokens.

    Raises:
        ArgumentError: the prefill was of several samples; ``media`` is not what was shown in it; or an answer comes
            without its question.
        StateError: no prefill has run yet.
        VideoError: a file cannot be read.
        OSError: the page cannot be written.
    """
    if not isinstance(run, Run):
        raise ArgumentTypeError(f"run must be what attach() returns, got {type(run).__name__}.")
    if answer is not None and question is None:
        raise ArgumentError("answer is given without question; give both, or leave both out.")
    layouts = run.layout
    if len(layouts) != 1:
        raise ArgumentError(f"the latest prefill was of {len(layouts)} samples; a report is of one, prefill it alone.")
    shown = _shown(media, layouts[0], frames)
    segments = run.segments
    made = Prefilled(
        text=answer,
        question=question,
        summary=run.summary(),
        stages=run.stages,
        layout=layouts[0],
        segments=segments[0] if segments else None,
        times=run.times or Times(),
        media=shown,
        names=tuple(one.path.name if isinstance(one, Video) else "photograph" for one in shown),
    )
    return report_of(made, path)


def _shown(given: Any, layout: VisualLayout, frames: int | None) -> tuple[Media, ...]:
    """The media of a layout."""
    one_video = layout.kinds == ("video",) and is_frames(given) and np.ndim(given[0]) == 3
    if isinstance(given, Sequence) and not isinstance(given, str) and not one_video:
        media = [_medium(one, layout, frames) for one in given]
        if len(media) != 1 and len(media) != len(layout.kinds):
            raise ArgumentError(
                f"media has {len(media)} entries, but the prefill was of {len(layout.kinds)} videos and photographs; "
                "give those that were shown, in their order."
            )
    else:
        media = [_medium(given, layout, frames)]
    if len(media) == 1 and isinstance(media[0], Video):
        positions = sum(t for t, _, _ in layout.grids)
        if len(media[0]) < positions:
            raise ArgumentError(
                f"media has {len(media[0])} frames, but the tokens are of {positions}; give the frames that were shown."
            )
    return tuple(media)


def _medium(given: Any, layout: VisualLayout, frames: int | None) -> Media:
    if isinstance(given, Video):
        return given
    if isinstance(given, Image.Image):
        return upright_rgb(given)
    if isinstance(given, (str, os.PathLike)):
        return read_media(given, frames or max(1, sum(t for t, _, _ in layout.grids)))
    if isinstance(given, Tensor):
        given = given.numpy(force=True)
    if isinstance(given, np.ndarray) and given.ndim == 3:
        return Image.fromarray(given)
    if is_frames(given):
        return frames_of(given, None, 0.0)
    raise ArgumentTypeError(f"media must be frames, videos, PIL images or paths, got {type(given).__name__}.")
