"""Pictures as the stamps of Tux Paint lie in their folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from framefusion.evaluation.needle.photos import PICTURES


def make_stamps(root: Path) -> Path:
    """Discs of one colour each, 50 × 30 pixels within a clear border, under the names of all pictures."""
    rng = np.random.default_rng(0)
    for train, test in PICTURES.values():
        for picture in (*train, *test):
            path = root / f"{picture}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
            color = tuple(int(value) for value in rng.integers(100, 256, size=3))
            ImageDraw.Draw(image).ellipse((5, 5, 54, 34), fill=(*color, 255))
            image.save(path)
    return root
