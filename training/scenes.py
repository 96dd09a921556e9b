"""Generated short videos: scenes with one moving, coloured object over a varied background.

A video is sampled once as a description (:class:`VideoSpec`) and can then be rendered at any
resolution and at any number of frames: shapes are signed distance fields, digits and textures are
smooth interpolations of small grids, so a 64-pixel and a 256-pixel rendering show the same picture.
Everything is drawn from one seeded :class:`numpy.random.Generator`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from framefusion.needle.objects import COLOR_NAMES, COLORS, DIGITS, SHAPES, Thing, digit_samples, draw

FRAME_SIZE = 64
TOKEN_GRID = 8

BACKGROUNDS = ("gradient", "noise", "clouds", "stripes", "checkers", "wood")


@dataclass(frozen=True)
class SceneSpec:
    """One scene: its object, the seed of its background and its share of the frames."""

    obj: Thing
    background: str
    background_seed: int
    frames: int


@dataclass(frozen=True)
class VideoSpec:
    scenes: tuple[SceneSpec, ...]

    @property
    def num_frames(self) -> int:
        return sum(scene.frames for scene in self.scenes)


@dataclass(frozen=True)
class Video:
    """A rendered video.

    ``frames`` is uint8 ``(T, H, W, 3)``; ``scene_of_frame`` is int64 ``(T,)``; ``coverage`` is float32
    ``(T, 8, 8)``, the share of each visual token's area that the object covers.
    """

    spec: VideoSpec
    frames: np.ndarray
    scene_of_frame: np.ndarray
    coverage: np.ndarray


# -- backgrounds ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _unit_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return axis[None, :], axis[:, None]


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _muted(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.uniform(0.12, 0.62) + rng.uniform(-0.09, 0.09, size=3), 0.03, 0.7)


def _field(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """A texture as one channel, about 0 … 1, shape ``(size, size)``."""
    x, y = _unit_grid(size)
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    frequency = 2 * np.pi * rng.uniform(2.0, 6.0)
    if kind == "gradient":
        return (along - along.min()) / (along.max() - along.min())
    if kind == "noise":
        return _smooth_noise(rng, int(rng.integers(4, 17)), size)
    if kind == "clouds":
        octaves = ((3, 0.5), (6, 0.27), (12, 0.15), (24, 0.08))
        return sum(weight * _smooth_noise(rng, cells, size) for cells, weight in octaves)
    if kind == "stripes":
        return 0.5 + 0.5 * np.tanh(3 * np.sin(frequency * along + phase))
    if kind == "checkers":
        return 0.5 + 0.5 * np.tanh(6 * np.sin(frequency * along + phase) * np.sin(frequency * across))
    if kind == "wood":
        bend = _smooth_noise(rng, 4, size)
        return 0.5 + 0.5 * np.sin(frequency * (along + 0.35 * bend) + phase)
    raise ValueError(f"background must be one of {BACKGROUNDS}, got {kind!r}")


def render_background(kind: str, seed: int, size: int) -> np.ndarray:
    """Background of one scene, float32 ``(size, size, 3)`` in 0 … 255: two muted colours and a texture."""
    rng = np.random.default_rng(seed)
    low, high = _muted(rng), _muted(rng)
    field = np.clip(_field(kind, rng, size), 0.0, 1.0)[..., None]
    return ((low + (high - low) * field) * 255).astype(np.float32)


# -- rendering ------------------------------------------------------------------------------------


def paint(background: np.ndarray, obj: Thing, u: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``obj`` at path position ``u`` (0 … 1): frame uint8 ``(S, S, 3)`` and alpha ``(S, S)``."""
    frame, alpha = _blend(background, obj, u)
    return np.round(frame).astype(np.uint8), alpha


def _blend(background: np.ndarray, obj: Thing, u: float) -> tuple[np.ndarray, np.ndarray]:
    frame = background.copy()
    return frame, draw(frame, obj, u)


def render(spec: VideoSpec, size: int = FRAME_SIZE) -> Video:
    """Render every frame of ``spec`` at ``size`` × ``size`` pixels (a multiple of 8)."""
    if size % TOKEN_GRID:
        raise ValueError(f"size must be a multiple of {TOKEN_GRID}, got {size}")
    frames, coverage, owner = [], [], []
    cell = size // TOKEN_GRID
    for index, scene in enumerate(spec.scenes):
        background = render_background(scene.background, scene.background_seed, size)
        for i in range(scene.frames):
            frame, alpha = paint(background, scene.obj, (i + 0.5) / scene.frames)
            frames.append(frame)
            coverage.append(alpha.reshape(TOKEN_GRID, cell, TOKEN_GRID, cell).mean(axis=(1, 3)))
            owner.append(index)
    return Video(spec, np.stack(frames), np.asarray(owner), np.stack(coverage))


# -- sampling -------------------------------------------------------------------------------------


def sample_object(rng: np.random.Generator, color: str, kind: str, split: str) -> Thing:
    """Draw the look and the path of an object of this colour and kind; ``split`` limits the handwriting."""
    is_digit = kind in DIGITS
    size = rng.uniform(0.31, 0.38) if is_digit else rng.uniform(0.25, 0.31)
    rgb = np.clip(np.asarray(COLORS[color]) + rng.uniform(-14, 14, size=3), 0, 255)
    margin = size * 0.55
    start = rng.uniform(margin, 1 - margin, size=2)
    step = rng.uniform(-0.3, 0.3, size=2)
    end = np.clip(start + step, margin, 1 - margin)
    sample = int(rng.choice(digit_samples(split)[DIGITS.index(kind)])) if is_digit else -1
    return Thing(
        role="large",
        color=color,
        kind=kind,
        rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
        size=float(size),
        rotation=float(rng.uniform(-0.2, 0.2)),
        start=(float(start[0]), float(start[1])),
        end=(float(end[0]), float(end[1])),
        digit=sample,
    )


def sample_objects(
    rng: np.random.Generator, count: int, *, split: str = "train", digit_share: float = 0.2
) -> list[Thing]:
    """Sample ``count`` objects, each different from the others in (colour, kind)."""
    names: list[tuple[str, str]] = []
    while len(names) < count:
        kinds = DIGITS if rng.random() < digit_share else SHAPES
        name = (COLOR_NAMES[rng.integers(len(COLOR_NAMES))], kinds[rng.integers(len(kinds))])
        if name not in names:
            names.append(name)
    return [sample_object(rng, color, kind, split) for color, kind in names]


def scene_lengths(rng: np.random.Generator, scenes: int, frames: int, jitter: float) -> list[int]:
    """Split ``frames`` over ``scenes``: even, or with probability ``jitter`` uneven (each at least one)."""
    if frames < scenes:
        raise ValueError(f"frames must be at least the number of scenes ({scenes}), got {frames}")
    if rng.random() >= jitter:
        cuts = np.round(np.arange(1, scenes) * frames / scenes).astype(int)
    else:
        cuts = np.sort(rng.choice(np.arange(1, frames), size=scenes - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [frames]])).astype(int).tolist()


def sample_video(
    rng: np.random.Generator,
    *,
    frames: int = 8,
    scenes: int | None = None,
    split: str = "train",
    digit_share: float = 0.2,
    jitter: float = 0.12,
) -> VideoSpec:
    """Sample a video.

    Args:
        rng: source of all randomness; the same state gives the same video.
        frames: number of frames, at least the number of scenes.
        scenes: number of scenes; ``None`` draws 4 (86 %), 3 or 2 (7 % each).
        split: "train" or "test": which handwritten digits may appear.
        digit_share: probability that an object is a digit.
        jitter: probability that the scenes' lengths are uneven.
    """
    if scenes is None:
        scenes = int(rng.choice([4, 3, 2], p=[0.86, 0.07, 0.07]))
    objects = sample_objects(rng, scenes, split=split, digit_share=digit_share)
    lengths = scene_lengths(rng, scenes, frames, jitter)
    return VideoSpec(
        tuple(
            SceneSpec(
                obj=obj,
                background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
                background_seed=int(rng.integers(2**31)),
                frames=length,
            )
            for obj, length in zip(objects, lengths, strict=True)
        )
    )


def render_crowd(
    rng: np.random.Generator, count: int, *, split: str = "train", digit_share: float = 0.4, size: int = FRAME_SIZE
) -> tuple[np.ndarray, list[Thing], np.ndarray]:
    """One frame with up to ``count`` objects that do not overlap, for training the vision side alone.

    Places are drawn anywhere in the frame; an object that finds no free one in twenty draws is left out.
    Returns the frame uint8 ``(S, S, 3)``, the n objects, and each visual token's coverage by each object,
    float32 ``(n, 8, 8)``.
    """
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    frame = render_background(background, int(rng.integers(2**31)), size)
    objects: list[Thing] = []
    coverage = []
    cell = size // TOKEN_GRID
    for obj in sample_objects(rng, count, split=split, digit_share=digit_share):
        margin = obj.size * 0.55
        for x, y in rng.uniform(margin, 1 - margin, size=(20, 2)).tolist():
            if all(np.hypot(x - o.start[0], y - o.start[1]) > 0.52 * (obj.size + o.size) for o in objects):
                placed = replace(obj, start=(x, y), end=(x, y))
                frame, alpha = _blend(frame, placed, 0.0)
                objects.append(placed)
                coverage.append(alpha.reshape(TOKEN_GRID, cell, TOKEN_GRID, cell).mean(axis=(1, 3)))
                break
    return np.round(frame).astype(np.uint8), objects, np.stack(coverage)
