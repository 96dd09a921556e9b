"""What a report shows, as plain numbers, texts and arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from framefusion.ask import Answer

DROPPED, MERGED, KEPT = 0, 1, 2
"""States of a visual token after the last stage: gone; averaged into one that stayed; stayed."""
ABSENT = 255
"""State of a grid position that has no token."""


@dataclass(frozen=True)
class FrameView:
    """One temporal position of the token grid.

    Attributes:
        picture: uint8 ``(H, W, 3)``, the (first) video frame that it shows.
        states: uint8 ``(rows, columns)`` of DROPPED, MERGED, KEPT or ABSENT.
        seconds: when the frame is shown.
        segment: temporal segment, from 0.
    """

    picture: np.ndarray = field(repr=False)
    states: np.ndarray
    seconds: float
    segment: int

    def count(self, state: int) -> int:
        """Number of tokens in a state."""
        return int((self.states == state).sum())

    @property
    def tokens(self) -> int:
        """Number of tokens before the reduction."""
        return int((self.states != ABSENT).sum())


@dataclass(frozen=True)
class SegmentRow:
    """One temporal segment; frames count from 0, ``last_frame`` included."""

    number: int
    first_frame: int
    last_frame: int
    seconds: float
    tokens: int
    kept: int
    merged: int

    @property
    def share(self) -> float:
        """Kept tokens relative to the segment's tokens."""
        return self.kept / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class StageRow:
    """One stage: it happened before ``layer``; ``kept`` visual tokens were left."""

    layer: int
    kept: int
    milliseconds: float


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows.

    Attributes:
        question: None when the video was only reduced.
        answer: with reduced tokens; None without a question.
        full_answer: with all tokens; None when not compared.
        video_name: file name.
        duration: of the video, seconds.
        frames: in order of time.
        segmented: whether a stage divided the video into segments.
        segments: in order of time; one for the whole video when not segmented.
        stages: in order of depth.
        tokens_before: visual tokens before any reduction.
        tokens_after: in the last layer.
        tokens_per_layer: visual tokens in each decoder layer.
        mean_share: mean over layers of the share present.
        flops_before, flops_after: of the decoder's prefill.
        kv_bytes_before, kv_bytes_after: of the key-value cache after the prefill.
        seconds_to_first_token: with reduced tokens.
        full_seconds_to_first_token: with all tokens; None when not compared.
        timing: how the seconds were measured.
        reduction_milliseconds: time that the stages took.
        command: command line that repeats the run.
        settings: further names and values needed to repeat it.
    """

    question: str | None
    answer: str | None
    full_answer: str | None
    video_name: str
    duration: float
    frames: Sequence[FrameView]
    segmented: bool
    segments: Sequence[SegmentRow]
    stages: Sequence[StageRow]
    tokens_before: int
    tokens_after: int
    tokens_per_layer: Sequence[int]
    mean_share: float
    flops_before: float
    flops_after: float
    kv_bytes_before: int
    kv_bytes_after: int
    seconds_to_first_token: float
    full_seconds_to_first_token: float | None
    timing: str
    reduction_milliseconds: float
    command: str
    settings: Sequence[tuple[str, str]]

    @property
    def has_merged(self) -> bool:
        """Whether any token was merged."""
        return any(segment.merged for segment in self.segments)


def report_data(answer: Answer, command: str = "", settings: Sequence[tuple[str, str]] = ()) -> ReportData:
    """Collect what the report shows from an answer.

    Args:
        answer: from :func:`framefusion.ask.ask` or :func:`framefusion.ask.inspect`.
        command: command line that repeats the run.
        settings: names and values that the page lists so that the run can be repeated.
    """
    states = token_states(answer)
    frames = _frames(answer, states)
    visual = set(answer.layout.columns.tolist())
    summary = answer.summary
    return ReportData(
        question=answer.question,
        answer=None if answer.question is None else answer.text,
        full_answer=None if answer.full is None else answer.full.text,
        video_name=answer.video.path.name,
        duration=answer.video.duration,
        frames=frames,
        segmented=answer.segments is not None,
        segments=_segments(frames),
        stages=[
            StageRow(stage.layer, sum(c in visual for c in stage.kept[0].tolist()), stage.milliseconds)
            for stage in answer.stages
        ],
        tokens_before=summary.visual_tokens_before,
        tokens_after=summary.visual_tokens_after,
        tokens_per_layer=list(summary.tokens_per_layer),
        mean_share=summary.mean_share,
        flops_before=summary.flops_before,
        flops_after=summary.flops_after,
        kv_bytes_before=summary.kv_bytes_before,
        kv_bytes_after=summary.kv_bytes_after,
        seconds_to_first_token=answer.seconds_to_first_token,
        full_seconds_to_first_token=None if answer.full is None else answer.full.seconds_to_first_token,
        timing=answer.timing,
        reduction_milliseconds=summary.reduction_milliseconds,
        command=command,
        settings=list(settings),
    )


def token_states(answer: Any) -> np.ndarray:
    """State of each visual token after the last stage, uint8 ``(N,)`` in the order of the layout."""
    columns = answer.layout.columns.tolist()
    if not answer.stages:
        return np.full(len(columns), KEPT, dtype=np.uint8)
    last = answer.stages[-1]
    kept = set(last.kept[0].tolist())
    holder = None if last.merged_into is None else last.merged_into[0].tolist()
    states = np.full(len(columns), DROPPED, dtype=np.uint8)
    for position, column in enumerate(columns):
        if column in kept:
            states[position] = KEPT
        elif holder is not None and holder[column] in kept:
            states[position] = MERGED
    return states


def _frames(answer: Any, states: np.ndarray) -> list[FrameView]:
    """One view per temporal position; a token that covers several frames shows the first of them."""
    layout, video = answer.layout, answer.video
    if not layout.grids:
        return []
    count, rows, columns = layout.grids[0]
    grid = np.full((count, rows * columns), ABSENT, dtype=np.uint8)
    segment_of: list[Counter[int]] = [Counter() for _ in range(count)]
    segments = [0] * len(states) if answer.segments is None else answer.segments.tolist()
    for frame, patch, state, segment in zip(
        layout.frame.tolist(), layout.patch.tolist(), states.tolist(), segments, strict=True
    ):
        grid[frame, patch] = state
        segment_of[frame][segment] += 1
    ids = [votes.most_common(1)[0][0] if votes else -1 for votes in segment_of]
    numbers = {segment: number for number, segment in enumerate(dict.fromkeys(ids))}
    per_position = max(1, -(-len(video) // count))
    return [
        FrameView(
            picture=video.frames[min(i * per_position, len(video) - 1)],
            states=grid[i].reshape(rows, columns),
            seconds=float(video.timestamps[min(i * per_position, len(video) - 1)]),
            segment=numbers[ids[i]],
        )
        for i in range(count)
    ]


def _segments(frames: Sequence[FrameView]) -> list[SegmentRow]:
    rows = []
    for number in dict.fromkeys(frame.segment for frame in frames):
        positions = [i for i, frame in enumerate(frames) if frame.segment == number]
        members = [frames[i] for i in positions]
        rows.append(
            SegmentRow(
                number=number,
                first_frame=positions[0],
                last_frame=positions[-1],
                seconds=members[0].seconds,
                tokens=sum(frame.tokens for frame in members),
                kept=sum(frame.count(KEPT) for frame in members),
                merged=sum(frame.count(MERGED) for frame in members),
            )
        )
    return rows
