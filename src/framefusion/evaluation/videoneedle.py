"""VideoNeedle (:mod:`framefusion.evaluation.needle`) as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from framefusion.asking.video import Video
from framefusion.evaluation.data import DataError, Question, spread
from framefusion.evaluation.needle.questions import QUESTION_KINDS

SECONDS = 8.0
"""Length of every video, as models with absolute time are told: more frames show it more finely."""


@dataclass(frozen=True)
class VideoNeedle:
    """The generated benchmark over real footage.

    Attributes:
        videos: how many.
        seed: of the generation.
        kinds: of questions; None asks :data:`framefusion.evaluation.needle.ASKED_KINDS`.
    """

    title: ClassVar[str] = "VideoNeedle"
    usual_videos: ClassVar[int] = 100
    known_kinds: ClassVar[tuple[str, ...]] = tuple(QUESTION_KINDS)
    usual_model: ClassVar[str | None] = None

    videos: int
    seed: int = 0
    kinds: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        kinds = "" if self.kinds is None else f", {', '.join(self.kinds)}"
        return f"{self.title} (test split, seed {self.seed}{kinds})"

    def questions(self, frames: int) -> list[Question]:
        return [
            Question(f"{video.id}/{number}", video.id, asked.text, asked.answer, asked.kind, (video.footage,))
            for video in _load(self, frames).values()
            for number, asked in enumerate(video.questions)
        ]

    def video(self, video: str, frames: int, shown: int) -> Video:
        whole = _load(self, frames)[video].frames
        chosen = np.array(spread(len(whole), shown))
        fps = len(whole) / SECONDS
        return Video(
            frames=whole[chosen],
            timestamps=chosen / fps,
            indices=chosen,
            duration=SECONDS,
            source_fps=fps,
            total_frames=len(whole),
            path=Path(video),
        )

    def drawn(self, frames: int) -> Sequence[Any]:
        """The :class:`~framefusion.evaluation.needle.NeedleVideo` of the set at so many frames."""
        from framefusion.evaluation import needle

        kinds = needle.ASKED_KINDS if self.kinds is None else self.kinds
        return needle.load(frames, self.videos, self.seed, kinds=kinds, split="test")


@lru_cache(maxsize=1)
def _load(data: VideoNeedle, frames: int) -> dict[str, Any]:
    try:
        return {video.id: video for video in data.drawn(frames)}
    except (ValueError, ImportError) as error:
        raise DataError(str(error)) from error
