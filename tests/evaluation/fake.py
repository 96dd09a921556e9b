"""A data set that any process can make: noise, with the questions that the tiny checkpoints know the words of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framefusion.asking.video import Video
from framefusion.evaluation import Question

ASKED = (("what colour is the circle", "colour"), ("is it a square", "shape"), ("describe the video", "colour"))


@dataclass(frozen=True)
class Noise:
    """``videos`` videos of noise, three questions each; every answer is ``answer``."""

    videos: int = 3
    answer: str | None = "red"
    name: str = "noise"

    def questions(self, frames: int) -> list[Question]:
        return [
            Question(f"{video}/{i}", str(video), text, self.answer, kind, ("static" if video % 2 else "fast",))
            for video in range(self.videos)
            for i, (text, kind) in enumerate(ASKED)
        ]

    def video(self, video: str, frames: int, shown: int) -> Video:
        pictures = np.random.default_rng(int(video)).integers(0, 255, (frames, 56, 56, 3), dtype=np.uint8)
        chosen = ((2 * np.arange(shown) + 1) * frames) // (2 * shown)
        return Video(pictures[chosen], chosen / 2, chosen, frames / 2, 2.0, frames, Path(video))
