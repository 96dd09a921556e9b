"""Writing ordinary H.264 mp4 files with PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int | Fraction, crf: int = 23) -> None:
    """Encode uint8 ``(H, W, 3)`` frames as H.264 in an mp4 container (yuv420p, for any player)."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=fps)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": str(crf), "preset": "slow"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise ValueError("frames must hold at least one frame, got none")
        container.mux(stream.encode())
