"""Write the clips of the test split into the package: ``python training/make_footage.py``.

Origin and licences: ``src/framefusion/assets/ATTRIBUTION.md``.
"""

from __future__ import annotations

import numpy as np
from footage import CONCERT_SECONDS, fetch
from PIL import Image
from runs import FILMS
from video_files import write_mp4

from framefusion.asking.video import read_video
from framefusion.evaluation.needle.footage import FILES, FPS

HEIGHT = 160
CITY_CUT = 37
"""The first frame (at 8 a second) of the city's second shot."""


def main() -> None:
    FILES.mkdir(parents=True, exist_ok=True)
    city = read_video(fetch("city", FILMS), fps=FPS).frames
    excerpts = {
        "city-1": city[:CITY_CUT],
        "city-2": city[CITY_CUT:],
        "bunny": read_video(fetch("bunny", FILMS), fps=FPS).frames,
        "concert": read_video(fetch("concert", FILMS), fps=FPS).frames[int(CONCERT_SECONDS * FPS) :],
    }
    for name, frames in excerpts.items():
        height = min(HEIGHT, frames.shape[1])
        width = 2 * round(frames.shape[2] * height / frames.shape[1] / 2)
        small = [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS)) for f in frames]
        path = FILES / f"{name}.mp4"
        write_mp4(path, small, int(FPS), crf=20)
        print(f"{path.name}: {len(small)} frames, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
