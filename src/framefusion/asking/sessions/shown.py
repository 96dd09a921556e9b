"""What a session has shown to its model: one item for each video and photograph, and what stands for it in a prompt.

A prompt that adds to what is held, or asks about it, shows each item by a *stand-in*, so that a processor lays it out
as the whole one: a photograph itself, a video by its last temporal patch of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from framefusion.asking.frames import video_of_frames
from framefusion.asking.media import Media
from framefusion.asking.video import Video


@dataclass(frozen=True)
class Item:
    """One video or photograph of a session.

    Attributes:
        name: of its file; ``"frames"`` or ``"photograph"`` without one.
        stand_in: what shows it in later prompts.
        frames: how many were added; 1 of a photograph.
        first: seconds at which the first was shown.
        last: seconds at which the last one was shown.
        pending: frames at its end that fill no temporal patch yet; None without.
        whole: all that was shown, as long as it is one part; None of a video that went on.
    """

    name: str
    stand_in: Media
    frames: int = 1
    first: float = 0.0
    last: float = 0.0
    pending: Video | None = field(default=None, repr=False)
    whole: Media | None = field(default=None, repr=False)

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return isinstance(self.stand_in, Video)


def joined(first: Video | None, second: Video) -> Video:
    """One video of the frames of both; the rate is that of the second where it has several."""
    if first is None:
        return second
    frames = np.concatenate([first.frames, second.frames])
    made = video_of_frames(frames, np.concatenate([first.timestamps, second.timestamps]))
    return replace(made, read_size=first.read_size)


def cut(video: Video, first: int, end: int) -> Video:
    """Some frames of a video, at the same rate."""
    count = len(video)
    return replace(
        video,
        frames=video.frames[first:end],
        timestamps=video.timestamps[first:end],
        indices=video.indices[first:end],
        duration=video.duration * (end - first) / count,
        total_frames=max(1, round(video.total_frames * (end - first) / count)),
    )
