"""What a notebook shows of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from framefusion.asking.report.data import FrameView, ReportData
from framefusion.asking.report.frames import data_uri, frame_strip
from framefusion.asking.report.text import lines
from framefusion.showing.notebook import Card
from framefusion.showing.tokens import looks_of

MOST_FRAMES = 24
"""Frames of the picture; of more, as many at equal distances."""
_WIDTH = 128


def snippet(data: ReportData) -> str:
    """Short HTML: question, answer, frames, tokens of each layer, what was saved; tens of kilobytes however long the
    video is."""
    chosen = _chosen(data.frames)
    strip = frame_strip(chosen, _WIDTH, legend=False) if chosen else None
    rows = [row for row in lines(data) if row[0] not in ("Per layer", "Timing")]
    return Card(
        title=f"What was kept of {data.video_name}" if data.question is None else data.question,
        answer=data.answer,
        rows=rows,
        per_layer=data.tokens_per_layer,
        total=data.tokens_before,
        picture=None if strip is None else data_uri(strip, "JPEG", quality=80),
        legend=looks_of([frame.states for frame in chosen if frame.placed]),
        caption="" if len(chosen) == len(data.frames) else f"{len(chosen)} of {len(data.frames)} frames",
    ).html()


def _chosen(frames: Sequence[FrameView]) -> list[FrameView]:
    count = min(len(frames), MOST_FRAMES)
    return [frames[(2 * place + 1) * len(frames) // (2 * count)] for place in range(count)]
