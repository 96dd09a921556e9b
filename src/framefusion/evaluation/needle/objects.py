"""Things to find: coloured shapes and handwritten digits on straight paths, drawn at any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from PIL import Image

from framefusion.errors import ArgumentError, MissingDependencyError

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 175, 60),
    "blue": (45, 80, 225),
    "yellow": (240, 215, 40),
    "purple": (165, 60, 200),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOR_NAMES = tuple(COLORS)
KINDS = SHAPES + DIGITS

Split = Literal["train", "test"]
Role = Literal["large", "small", "needle", "clutter"]


@dataclass(frozen=True)
class Thing:
    """One coloured shape or digit of a scene.

    Attributes:
        role: ``"large"`` (one per scene), ``"small"``, ``"needle"`` (visible in one frame) or ``"clutter"``.
        color, kind: its names.
        rgb: its colour, 0 … 255.
        size: diameter in frame widths.
        rotation: radians.
        start, end: centre at the scene's first and last frame in frame units, x to the right, y down.
        digit: index into scikit-learn's digits, -1 for a shape.
        moment: a needle is visible in the frame that this share of the scene falls into; -1 is always.
    """

    role: Role
    color: str
    kind: str
    rgb: tuple[float, float, float]
    size: float
    rotation: float
    start: tuple[float, float]
    end: tuple[float, float]
    digit: int = -1
    moment: float = -1.0

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    @property
    def direction(self) -> str | None:
        """``"left"``, ``"right"``, ``"up"`` or ``"down"``; None if it stands still."""
        dx, dy = self.end[0] - self.start[0], self.end[1] - self.start[1]
        if max(abs(dx), abs(dy)) < 1e-6:
            return None
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"

    def visible(self, frame: int, frames: int) -> bool:
        """Whether it is seen in frame ``frame`` of a scene of ``frames`` frames."""
        return self.moment < 0 or frame == min(int(self.moment * frames), frames - 1)

    def centre(self, u: float) -> tuple[float, float]:
        """Where it is at share ``u`` (0 … 1) of its path."""
        return tuple(a + (b - a) * u for a, b in zip(self.start, self.end, strict=True))  # type: ignore[return-value]


@lru_cache(maxsize=1)
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: images float32 ``(1797, 8, 8)`` in 0 … 1, and their labels.

    Raises:
        ImportError: scikit-learn is missing; names the extra.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "VideoNeedle draws scikit-learn's handwritten digits; install it with: pip install 'framefusion[eval]'"
        ) from error
    data = load_digits()
    return (data.images / 16.0).astype(np.float32), data.target.astype(np.int64)


@lru_cache(maxsize=2)
def digit_samples(split: Split) -> tuple[np.ndarray, ...]:
    """Sample indices per digit; every fifth sample of each digit is held out ("test").

    Raises:
        ValueError: there is no such split.
    """
    if split not in get_args(Split):
        raise ArgumentError(f"split must be 'train' or 'test', got {split!r}.")
    _, labels = digit_images()
    per_digit = (np.flatnonzero(labels == digit) for digit in range(10))
    held_out = split == "test"
    return tuple(idx[(np.arange(len(idx)) % 5 == 0) == held_out] for idx in per_digit)


# Shapes are signed distances in units of the half size, negative inside.


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    outer, inner, half = 1.08, 0.45, np.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs((angle + half) % (2 * half) - half)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(folded), radius * np.sin(folded)
    ex, ey = inner * np.cos(half) - outer, inner * np.sin(half)
    return ((px - outer) * ey - py * ex) / np.hypot(ex, ey)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), y + 0.05
    tip = (x + np.abs(y - 0.08) - 0.86) / np.sqrt(2)
    lobe = np.hypot(x - 0.45, y + 0.33) - 0.53
    return np.minimum(tip, lobe)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.98, y - 0.3), np.maximum(x - 0.3, y - 0.98))


_DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.95,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.83,
    "triangle": lambda x, y: np.maximum(y - 0.75, 0.88 * np.abs(x) - 0.47 * y - 0.47),
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.74) - 0.25,
    "heart": _heart,
    "diamond": lambda x, y: (1.35 * np.abs(x) + np.abs(y) - 1.1) / 1.68,
}


def draw(frame: np.ndarray, thing: Thing, u: float) -> np.ndarray:
    """Paint ``thing`` at share ``u`` of its path into ``frame``, float32 ``(S, S, 3)``, in place.

    Returns:
        Its coverage of every pixel, float32 ``(S, S)`` in 0 … 1.
    """
    size = frame.shape[0]
    cx, cy = (size * value for value in thing.centre(u))
    half = thing.size * size / 2
    reach = half * 1.5 + 1
    x0, y0 = max(0, int(cx - reach)), max(0, int(cy - reach))
    x1, y1 = min(size, int(cx + reach) + 1), min(size, int(cy + reach) + 1)
    if thing.digit >= 0:
        crop = _digit_coverage(thing, cx - x0, cy - y0, half, x1 - x0, y1 - y0)
    else:
        x = (np.arange(x0, x1, dtype=np.float32) + 0.5 - cx)[None, :] / half
        y = (np.arange(y0, y1, dtype=np.float32) + 0.5 - cy)[:, None] / half
        cos, sin = np.cos(thing.rotation), np.sin(thing.rotation)
        distance = _DISTANCE[thing.kind](x * cos + y * sin, y * cos - x * sin)
        crop = np.clip(0.5 - distance * half, 0.0, 1.0)
    region = frame[y0:y1, x0:x1]
    region += (np.asarray(thing.rgb, dtype=np.float32) - region) * crop[..., None]
    alpha = np.zeros((size, size), dtype=np.float32)
    alpha[y0:y1, x0:x1] = crop
    return alpha


def _digit_coverage(thing: Thing, cx: float, cy: float, half: float, width: int, height: int) -> np.ndarray:
    images, _ = digit_images()
    pad = 3
    grid = Image.fromarray(np.pad(images[thing.digit], pad))
    scale = 4.0 / half
    cos, sin = np.cos(thing.rotation) * scale, np.sin(thing.rotation) * scale
    middle = 4.0 + pad
    matrix = (cos, sin, middle - cos * cx - sin * cy, -sin, cos, middle + sin * cx - cos * cy)
    strength = grid.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    # The 8×8 samples are soft; a steep ramp around the stroke's edge gives legible strokes at any size.
    return np.clip((np.asarray(strength) - 0.28) * 3.0, 0.0, 1.0)
