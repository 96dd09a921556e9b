"""Frames that somebody has in memory, as a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.prompts import AskError
from framefusion.asking.video import Video

SPACING = 1.0
"""Seconds between frames that come without times."""


def is_frames(given: Any) -> bool:
    """Whether something is frames as they come from a camera or a decoder: an array, or a list of arrays or images."""
    if isinstance(given, np.ndarray):
        return True
    frames = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    return bool(frames) and all(isinstance(frame, np.ndarray | Image.Image) for frame in frames)


def frames_of(given: Any, timestamps: Sequence[float] | None, begin: float) -> Video:
    """Frames as a video.

    Args:
        given: ``(T, H, W, 3)`` uint8, or T frames ``(H, W, 3)`` uint8 or PIL images, all of one size.
        timestamps: seconds at which each one is shown, ascending; None for :data:`SPACING` apart from ``begin`` on.
        begin: seconds.

    Raises:
        AskError: they are none, or not of one size, or the times are not theirs.
    """
    pictures = [np.asarray(upright_rgb(frame)) if isinstance(frame, Image.Image) else frame for frame in given]
    if not pictures:
        raise AskError("frames are empty; give at least one")
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise AskError(f"frames must be (H, W, 3) of uint8, got {picture.shape} of {picture.dtype}")
        if picture.shape != pictures[0].shape:
            raise AskError(f"frames must have one size, got {pictures[0].shape[:2]} and {picture.shape[:2]}")
    try:
        given_times = None if timestamps is None else np.asarray(timestamps, dtype=float)
    except (TypeError, ValueError) as error:
        raise AskError(f"timestamps must be {len(pictures)} seconds, got {timestamps!r}") from error
    times = begin + SPACING * np.arange(len(pictures)) if given_times is None else given_times
    if times.shape != (len(pictures),) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise AskError(
            f"timestamps must be {len(pictures)} seconds that ascend, one for each frame, got {times.tolist()}"
        )
    return video_of_frames(np.stack(pictures), times)


def video_of_frames(frames: np.ndarray, times: np.ndarray) -> Video:
    """Frames and times as a video that has no others."""
    interval = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else SPACING
    return Video(
        frames=frames,
        timestamps=times,
        indices=np.arange(len(frames)),
        duration=interval * len(frames),
        source_fps=1 / interval,
        total_frames=len(frames),
        path=Path("frames"),
    )
