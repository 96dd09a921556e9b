"""VideoNeedle (:mod:`framefusion.needle`) as a data set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from framefusion.evaluation.data import DataError, Question
from framefusion.needle.questions import QUESTION_KINDS
from framefusion.video import Video

SECONDS = 8.0
"""Length of every video, as models with absolute time are told: more frames show it more finely."""


@dataclass(frozen=True)
class VideoNeedle:
    """The generated benchmark over real footage.

    Attributes:
        videos: how many.
        seed: of the generation.
        kinds: of questions; None asks :data:`framefusion.needle.ASKED_KINDS`.
    """

    usual_videos: ClassVar[int] = 100
    known_kinds: ClassVar[tuple[str, ...]] = tuple(QUESTION_KINDS)
    usual_model: ClassVar[str | None] = None

    videos: int
    seed: int = 0
    kinds: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        kinds = "" if self.kinds is None else f", {', '.join(self.kinds)}"
        return f"VideoNeedle (test split, seed {self.seed}{kinds})"

    def questions(self, frames: int) -> list[Question]:
        return [
            Question(f"{video.id}/{number}", video.id, asked.text, asked.answer, asked.kind, (video.footage,))
            for video in _load(self, frames).values()
            for number, asked in enumerate(video.questions)
        ]

    def video(self, video: str, frames: int, shown: int) -> Video:
        whole = _load(self, frames)[video].frames
        # the middle of equal intervals, as videos are decoded
        chosen = ((2 * np.arange(shown) + 1) * len(whole)) // (2 * shown)
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


@lru_cache(maxsize=1)
def _load(data: VideoNeedle, frames: int) -> dict[str, Any]:
    from framefusion import needle

    try:
        kinds = needle.ASKED_KINDS if data.kinds is None else data.kinds
        return {video.id: video for video in needle.load(frames, data.videos, data.seed, kinds=kinds, split="test")}
    except (ValueError, ImportError) as error:
        raise DataError(str(error)) from error
