"""Frames that somebody gives: arrays or pictures, with times or without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.streams.sampling import Ticks
from framefusion.asking.streams.stream import Frame, Produce, Tally
from framefusion.asking.streams.waiting import Waiting
from framefusion.checks import is_number

NAME = "the iterator of frames"


def given_frames(frames: Iterable[Any], fps: float) -> Produce:
    """Frames of an iterator of ``(H, W, 3)`` uint8 arrays or PIL images, or of pairs ``(timestamp, frame)``.

    Times that are given stay as they are; frames without are ``1 / fps`` apart.
    """

    def produce(tally: Tally, waiting: Waiting) -> Iterator[Frame]:
        ticks, last = Ticks(fps), -math.inf
        timed: bool | None = None
        for position, item in enumerate(frames):
            if waiting.stopped:
                return
            has_time = isinstance(item, tuple | list) and len(item) == 2 and is_number(item[0])
            if timed is not None and timed != has_time:
                raise VideoError(
                    f"frame {position} comes {'with' if has_time else 'without'} a timestamp, unlike those before"
                )
            timed = has_time
            time, picture = (float(item[0]), item[1]) if has_time else (position / fps, item)
            if not (math.isfinite(time) and time > last):
                raise VideoError(f"timestamps must ascend, got {time:g} s for frame {position} after {last:g} s")
            last = time
            tally.add(frames_decoded=1)
            if ticks.due(time):
                yield Frame(_pixels(picture, position), time)
        if not waiting.stopped:
            tally.end("the iterator ended")

    return produce


def _pixels(picture: Any, position: int) -> np.ndarray:
    """uint8 ``(H, W, 3)``; arrays are not copied."""
    if isinstance(picture, Image.Image):
        return np.asarray(upright_rgb(picture))
    try:
        pixels = np.asarray(picture)
    except Exception as error:
        raise VideoError(f"frame {position} is no array and no picture ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise VideoError(
            f"frame {position} must be a uint8 array (H, W, 3) or a PIL image, got {type(picture).__name__} of "
            f"{pixels.dtype} {pixels.shape}"
        )
    return pixels
