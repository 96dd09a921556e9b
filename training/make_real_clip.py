"""Cut the real clip ``concert.mp4`` out of its source: ``python training/make_real_clip.py SOURCE``.

SOURCE is ``iscc_samples/files/video/demo.mp4`` of the source distribution ``iscc-samples`` 0.6.0 (origin and
licence: ``src/framefusion/assets/ATTRIBUTION.md``). The excerpt is re-encoded at its own size, without sound.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from make_demo_video import VIDEOS
from video_files import write_mp4

START, SECONDS = 16.0, 20.0


def excerpt(source: Path, start: float, seconds: float) -> tuple[Fraction, Iterator[np.ndarray]]:
    """Frame rate and frames (uint8 ``(H, W, 3)``) of ``source`` from ``start`` on, times in seconds."""
    with av.open(str(source)) as container:
        rate = Fraction(container.streams.video[0].average_rate)

    def frames() -> Iterator[np.ndarray]:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                if frame.time >= start + seconds:
                    return
                if frame.time >= start:
                    yield frame.to_ndarray(format="rgb24")

    return rate, frames()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=VIDEOS / "concert.mp4")
    args = parser.parse_args()
    rate, frames = excerpt(args.source, START, SECONDS)
    write_mp4(args.out, frames, rate, crf=24)
    print(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
