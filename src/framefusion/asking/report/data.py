"""What a report shows, as plain numbers, texts and arrays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from framefusion.asking.video import Video
from framefusion.hf.summary import first_token_flops
from framefusion.hf.timing import Times
from framefusion.showing import units
from framefusion.showing.tokens import ABSENT, DROPPED, KEPT, MERGED

if TYPE_CHECKING:
    from framefusion.asking.answers import Answer
    from framefusion.asking.report.pages import Prefilled


_MOST_VIEWS = 3
"""Stages behind which the frames are drawn."""


@dataclass(frozen=True)
class FrameView:
    """One temporal position of the token grid of a video, or a photograph.

    Attributes:
        picture: uint8 ``(H, W, 3)``, the (first) video frame that it shows, or the photograph.
        states: uint8 ``(rows, columns)`` of DROPPED, MERGED, KEPT or ABSENT, behind the last stage.
        seconds: when the frame is shown; None for a photograph.
        segment: temporal segment, from 0.
        medium: of which video or photograph it is, from 0.
        placed: whether the rows and columns are places in the picture; not where a processor shows it in several
            views, whose tokens lie in no one grid.
        earlier: the states behind earlier stages, in order: those of all but the last of :attr:`ReportData.views`.
    """

    picture: np.ndarray = field(repr=False)
    states: np.ndarray
    seconds: float | None
    segment: int
    medium: int = 0
    placed: bool = True
    earlier: tuple[np.ndarray, ...] = field(default=(), repr=False)

    @property
    def views(self) -> tuple[np.ndarray, ...]:
        """The states behind each stage that is drawn, in order."""
        return (*self.earlier, self.states)

    def count(self, state: int) -> int:
        """Number of tokens in a state behind the last stage."""
        return int((self.states == state).sum())

    @property
    def tokens(self) -> int:
        """Number of tokens before the reduction."""
        return int((self.states != ABSENT).sum())


@dataclass(frozen=True)
class MediumRow:
    """One video or photograph; ``duration`` in seconds is None for a photograph.

    ``warning`` says what is wrong with a video, see :attr:`framefusion.asking.video.Video.warning`.
    """

    kind: str
    name: str
    duration: float | None
    tokens: int
    kept: int
    warning: str | None = None


@dataclass(frozen=True)
class SegmentRow:
    """One temporal segment; frames count from 0, ``last_frame`` included."""

    number: int
    first_frame: int
    last_frame: int
    seconds: float | None
    tokens: int
    kept: int
    merged: int

    @property
    def share(self) -> float:
        """Kept tokens relative to the segment's tokens."""
        return units.share_of(self.kept, self.tokens)


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
        video_name: file names, separated by commas.
        duration: of the videos, seconds; None for photographs alone.
        frames: in order of time, medium after medium.
        views: the stages behind which the frames are drawn, in order of depth, the last one among them.
        segmented: whether a stage divided the video into segments.
        segments: in order of time; one for the whole video when not segmented.
        stages: in order of depth.
        tokens_before: visual tokens before any reduction.
        tokens_after: in the last layer.
        tokens_per_layer: visual tokens in each decoder layer.
        mean_share: mean over layers of the share present.
        flops_before, flops_after: of the decoder's prefill.
        kv_bytes_before, kv_bytes_after: of the key-value cache after the prefill.
        seconds_to_first_token: with reduced tokens; None where nobody measured.
        full_seconds_to_first_token: with all tokens; None when not compared.
        timing: how the seconds were measured.
        reduction_milliseconds: time that the stages took.
        command: command line that repeats the run.
        settings: further names and values needed to repeat it.
        media: the videos and photographs, in order.
        tower_share: share of its work on the videos that the vision tower did; None where it does all of it.
        times: seconds of the parts with reduced tokens.
        full_times: the same with all tokens; None when not compared.
        encoder_flops: of vision tower and projector; None where they cannot be counted.
        projector_flops: of the projector's part; None where nobody tells it apart.
        head_flops: of the language-model head, for one token; None where nobody tells.
    """

    question: str | None
    answer: str | None
    full_answer: str | None
    video_name: str
    duration: float | None
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
    seconds_to_first_token: float | None
    full_seconds_to_first_token: float | None
    timing: str
    reduction_milliseconds: float
    command: str
    settings: Sequence[tuple[str, str]]
    media: Sequence[MediumRow] = ()
    tower_share: float | None = None
    times: Times = field(default_factory=Times)
    full_times: Times | None = None
    encoder_flops: int | None = None
    projector_flops: int | None = None
    head_flops: int | None = None
    views: Sequence[StageRow] = ()

    @property
    def first_token_flops(self) -> tuple[float, float] | None:
        """Up to the first token without and with reduction; None where the vision encoder cannot be counted."""
        return first_token_flops(self)

    @property
    def seconds(self) -> float | None:
        """To the first token with reduced tokens: from the file on, or as far as that was measured."""
        return self.seconds_to_first_token if self.times.first_token is None else self.times.first_token

    @property
    def full_seconds(self) -> float | None:
        """The same with all tokens; None when not compared."""
        whole = None if self.full_times is None else self.full_times.first_token
        return self.full_seconds_to_first_token if whole is None else whole

    @property
    def factor(self) -> float | None:
        """How many times sooner the first token is there, from the file on; None when not compared."""
        return _ratio(None if self.full_times is None else self.full_times.first_token, self.times.first_token)

    @property
    def decoder_factor(self) -> float | None:
        """The same of the decoder's prefill alone."""
        return _ratio(None if self.full_times is None else self.full_times.prefill, self.times.prefill)

    @property
    def compared(self) -> bool:
        """Whether the question was answered with all tokens too."""
        return self.full_answer is not None and self.full_seconds_to_first_token is not None

    @property
    def same_answer(self) -> bool:
        """Whether both answers are the same, blanks around them aside."""
        return (self.answer or "").strip() == (self.full_answer or "").strip()


def report_data(
    answer: Answer | Prefilled,
    command: str = "",
    settings: Sequence[tuple[str, str]] | None = None,
    names: Sequence[str] | None = None,
) -> ReportData:
    """Collect what the report shows from an answer.

    Args:
        answer: from :func:`framefusion.asking.ask.ask` or :func:`framefusion.asking.ask.inspect`, or what a run tells.
        command: command line that repeats the run.
        settings: names and values that the page lists so that the run can be repeated; default those of the answer,
            without settings that are not in use.
        names: of the videos and photographs; default those of the answer.
    """
    visual = set(answer.layout.columns.tolist())
    stages = [
        StageRow(stage.layer, sum(c in visual for c in stage.kept[0].tolist()), stage.milliseconds)
        for stage in answer.stages
    ]
    views = _drawn_stages(stages)
    frames = _frames(answer, [token_states(answer, number) for number in views or [-1]])
    media = _media(answer.media, frames, answer.names if names is None else names)
    durations = [row.duration for row in media if row.duration is not None]
    summary = answer.summary
    return ReportData(
        question=answer.question,
        answer=None if answer.question is None else answer.text,
        full_answer=None if answer.full is None else answer.full.text,
        video_name=", ".join(row.name for row in media),
        duration=sum(durations) if durations else None,
        frames=frames,
        segmented=answer.segments is not None,
        segments=_segments(frames),
        stages=stages,
        views=[stages[number] for number in views],
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
        tower_share=summary.tower_share,
        command=command,
        settings=_listed(answer.provenance) if settings is None else list(settings),
        media=media,
        times=answer.times,
        full_times=None if answer.full is None else answer.full.times,
        encoder_flops=summary.encoder_flops,
        projector_flops=summary.projector_flops,
        head_flops=summary.head_flops,
    )


def _ratio(before: float | None, after: float | None) -> float | None:
    return before / after if before and after else None


def _drawn_stages(stages: Sequence[StageRow]) -> list[int]:
    """Positions of the stages behind which frames are drawn: the last one, and those before it that took most."""
    of_layer = {stage.layer: number for number, stage in enumerate(stages)}
    numbers = sorted(of_layer.values())
    left = [stages[number].kept for number in numbers]
    # The first took what the number of all tokens says, which is at least what it left.
    taken = {number: before - now for number, before, now in zip(numbers[1:], left, left[1:], strict=False)}
    earlier = sorted(numbers[:-1], key=lambda number: taken.get(number, math.inf), reverse=True)[: _MOST_VIEWS - 1]
    return [*sorted(earlier), *numbers[-1:]]


def token_states(answer: Any, stage: int = -1) -> np.ndarray:
    """State of each visual token behind a stage, by default the last: uint8 ``(N,)`` in the order of the layout."""
    columns = answer.layout.columns.tolist()
    if not answer.stages:
        return np.full(len(columns), KEPT, dtype=np.uint8)
    last = answer.stages[stage]
    kept = set(last.kept[0].tolist())
    holder = None if last.merged_into is None else last.merged_into[0].tolist()
    states = np.full(len(columns), DROPPED, dtype=np.uint8)
    for position, column in enumerate(columns):
        if column in kept:
            states[position] = KEPT
        elif holder is not None and holder[column] in kept:
            states[position] = MERGED
    return states


def _listed(provenance: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), str(value))
        for group in provenance.values()
        for name, value in group.items()
        if value is not None
    ]


def _media(media: Sequence[Any], frames: Sequence[FrameView], names: Sequence[str]) -> list[MediumRow]:
    rows = []
    for number, medium in enumerate(media):
        mine = [frame for frame in frames if frame.medium == number]
        video = isinstance(medium, Video)
        rows.append(
            MediumRow(
                kind="video" if video else "image",
                name=names[number],
                duration=medium.duration if video else None,
                tokens=sum(frame.tokens for frame in mine),
                kept=sum(frame.count(KEPT) for frame in mine),
                warning=medium.warning if video else None,
            )
        )
    return rows


def _frames(answer: Any, states: Sequence[np.ndarray]) -> list[FrameView]:
    """One view per temporal position; a token that covers several frames shows the first of them.

    Args:
        answer: as of :func:`report_data`.
        states: of the tokens behind each stage that is drawn, in order.
    """
    layout = answer.layout
    grids = [np.full((len(states), t, h * w), ABSENT, dtype=np.uint8) for t, h, w in layout.grids]
    votes: list[list[Counter[int]]] = [[Counter() for _ in range(t)] for t, _, _ in layout.grids]
    segments = [0] * len(layout) if answer.segments is None else answer.segments.tolist()
    behind = np.stack(states, axis=1)
    for item, frame, patch, own, segment in zip(
        layout.item.tolist(), layout.frame.tolist(), layout.patch.tolist(), behind, segments, strict=True
    ):
        grids[item][:, frame, patch] = own
        votes[item][frame][segment] += 1
    ids = [[one.most_common(1)[0][0] if one else -1 for one in mine] for mine in votes]
    numbers = {segment: number for number, segment in enumerate(dict.fromkeys(one for mine in ids for one in mine))}
    views = []
    for medium, items in enumerate(_items_of(answer.media, layout.kinds)):
        shown = answer.media[medium]
        positions = [(item, t) for item in items for t in range(layout.grids[item][0])]
        for place, (item, t) in enumerate(positions):
            picture, seconds = _picture(shown, place, len(positions))
            _, rows, columns = layout.grids[item]
            # One row of many columns says nothing about places, unless the picture is as flat as that.
            placed = rows > 1 or columns == 1 or 2 * picture.shape[1] >= columns * picture.shape[0]
            numbered = numbers[ids[item][t]]
            *earlier, last = (own.reshape(rows, columns) for own in grids[item][:, t])
            views.append(FrameView(picture, last, seconds, numbered, medium, placed, tuple(earlier)))
    return views


def _items_of(media: Sequence[Any], kinds: Sequence[str]) -> list[list[int]]:
    """The items of the layout that show each medium. Of a single one all, which a layout may have taken apart."""
    if len(media) == 1:
        return [list(range(len(kinds)))]
    wanted = ["video" if isinstance(medium, Video) else "image" for medium in media]
    if sorted(wanted) != sorted(kinds):
        # A video of one frame may count as an image.
        return [[number] if number < len(kinds) else [] for number in range(len(media))]
    # Templates may put one kind before the other.
    by_kind = {kind: iter([item for item, own in enumerate(kinds) if own == kind]) for kind in wanted}
    return [[next(by_kind[kind])] for kind in wanted]


def _picture(medium: Any, place: int, places: int) -> tuple[np.ndarray, float | None]:
    """What one of ``places`` temporal positions of a medium shows first, and when."""
    if not isinstance(medium, Video):
        return np.asarray(medium), None
    frame = min(place * max(1, -(-len(medium) // places)), len(medium) - 1)
    return _as_it_was(medium.frames[frame], medium.own_size), float(medium.timestamps[frame])


def _as_it_was(picture: np.ndarray, own: tuple[int, int]) -> np.ndarray:
    """A picture in the proportions that it had before it was resized as it was read; nothing is made smaller."""
    (height, width), (own_height, own_width) = picture.shape[:2], own
    shown = max(height, round(width * own_height / own_width)), max(width, round(height * own_width / own_height))
    if shown == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize(shown[::-1], Image.Resampling.BICUBIC))


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
