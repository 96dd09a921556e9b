"""Real footage behind the things: clips, and short excerpts of them as square frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from framefusion.asking.video import read_video

FRAME_SIZE = 96
FPS = 8.0
"""Frames per second of the bundled clips."""
BRIGHTNESS = 0.8
"""Footage is dimmed by this factor, so that white things stand out everywhere."""
FILES = Path(__file__).resolve().parents[2] / "assets" / "footage"


@dataclass(frozen=True)
class Clip:
    """One shot or film: ``frames`` uint8 ``(T, H, W, 3)``, ``fps`` frames per second."""

    name: str
    frames: np.ndarray
    fps: float


@lru_cache(maxsize=1)
def bundled_clips() -> tuple[Clip, ...]:
    """The clips of the test split; ``assets/ATTRIBUTION.md`` names their origin. None is used in training."""
    return tuple(Clip(path.stem, read_video(path, fps=FPS).frames, FPS) for path in sorted(FILES.glob("*.mp4")))


def excerpt(
    rng: np.random.Generator,
    clips: Sequence[Clip],
    frames: int,
    *,
    cut: float,
    seconds: float,
    size: int = FRAME_SIZE,
    repeat: int = 1,
) -> np.ndarray:
    """A square excerpt of real footage.

    Args:
        rng: source of all randomness.
        clips: where to cut from.
        frames: frames of the excerpt.
        cut: probability of a hard cut to another clip and window before each frame but the first.
        seconds: time between two frames.
        size: pixels across and down.
        repeat: pictures of each frame, evenly over its time, for a smooth film of the same cuts.

    Returns:
        float32 ``(frames * repeat, size, size, 3)`` in 0 … 255, dimmed by :data:`BRIGHTNESS`.
    """
    result = np.empty((frames * repeat, size, size, 3), dtype=np.float32)
    clip, box, at, flip = _window(rng, clips)
    for index in range(frames * repeat):
        if index and index % repeat == 0 and rng.random() < cut:
            clip, box, at, flip = _window(rng, clips)
        # A clip that ends goes on backwards: no cut where none was drawn.
        position = int(at + index / repeat * seconds * clip.fps) % (2 * len(clip.frames))
        position = min(position, 2 * len(clip.frames) - 1 - position)
        picture = Image.fromarray(clip.frames[position])
        square = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
        result[index] = square[:, ::-1] if flip else square
    result *= BRIGHTNESS
    return result


def _window(
    rng: np.random.Generator, clips: Sequence[Clip]
) -> tuple[Clip, tuple[float, float, float, float], int, bool]:
    clip = clips[int(rng.integers(len(clips)))]
    height, width = clip.frames.shape[1:3]
    side = rng.uniform(0.55, 1.0) * min(height, width)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    return clip, (left, top, left + side, top + side), int(rng.integers(len(clip.frames))), bool(rng.random() < 0.5)
