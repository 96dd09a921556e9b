"""VideoNeedle over footage that stands still, with the noise of a camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from framefusion.evaluation import needle
from framefusion.evaluation.needle import NeedleVideo
from framefusion.evaluation.needle.footage import Clip, bundled_clips
from framefusion.evaluation.videoneedle import VideoNeedle

NOISE = 2.0
"""Its standard deviation, in grey levels."""


def pictures() -> list[Clip]:
    """The first frame of every bundled clip, and the one in its middle."""
    return [
        Clip(clip.name, clip.frames[at : at + 1], clip.fps)
        for clip in bundled_clips()
        for at in (0, len(clip.frames) // 2)
    ]


def noisy(videos: Sequence[NeedleVideo], seed: int = 0) -> list[NeedleVideo]:
    """Those that are not cut, with noise of their own in every frame."""
    rng = np.random.default_rng(seed)
    return [
        replace(video, frames=np.clip(video.frames + rng.normal(0, NOISE, video.frames.shape), 0, 255).astype(np.uint8))
        for video in videos
        if video.footage == "static"
    ]


@dataclass(frozen=True)
class StillNeedle(VideoNeedle):
    """VideoNeedle whose scenes have one noisy picture each behind the things, as a camera that does not move shows."""

    title: ClassVar[str] = "VideoNeedle over still pictures"

    def drawn(self, frames: int) -> Sequence[Any]:
        kinds = needle.ASKED_KINDS if self.kinds is None else self.kinds
        # Every other video is over footage that is cut.
        every = needle.load(frames, 2 * self.videos, self.seed, kinds=kinds, split="test", clips=pictures())
        return noisy(every)
