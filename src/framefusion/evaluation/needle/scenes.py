"""Scenes and videos: several things over real footage, sampled from a seed, rendered at any number of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from framefusion.errors import ArgumentError
from framefusion.evaluation.needle.footage import FRAME_SIZE, Clip, excerpt
from framefusion.evaluation.needle.objects import COLOR_NAMES, COLORS, DIGITS, SHAPES, Role, Split, Thing, digit_samples
from framefusion.evaluation.needle.objects import draw as draw_thing

TOKEN_GRID = 8
"""Visual tokens across and down a frame, for the labels of training."""
CUT = 0.5
"""Probability of a cut before a frame of fast footage."""
SCENE_SECONDS = 1.6
"""Footage that passes in a scene, whatever the number of its frames."""

Footage = Literal["static", "fast"]

_SIZES: dict[Role, tuple[float, float]] = {
    "large": (0.34, 0.42),
    "small": (0.165, 0.20),
    "needle": (0.24, 0.30),
    "clutter": (0.22, 0.28),
}
DIGIT_SHARES: dict[Role, float] = {"large": 0.25, "small": 0.0, "needle": 0.2, "clutter": 0.35}
_DIGIT_SIZE = 0.26


@dataclass(frozen=True)
class Scene:
    """Things over one excerpt of footage; the first thing is the large one."""

    things: tuple[Thing, ...]
    footage: Footage
    seed: int

    @property
    def large(self) -> Thing:
        return self.things[0]


@dataclass(frozen=True)
class RenderedScene:
    """``frames`` uint8 ``(F, 96, 96, 3)``; ``coverage`` float32 ``(things, F, 8, 8)``: the share of each cell of the
    token grid that each thing covers."""

    scene: Scene
    frames: np.ndarray
    coverage: np.ndarray


def sample_names(
    rng: np.random.Generator, roles: Sequence[Role], shares: Mapping[Role, float] = DIGIT_SHARES
) -> list[tuple[str, str]]:
    """A colour and kind for each role; no two things share both, and kinds rarely repeat.

    ``shares`` says how likely a thing of each role is a digit.
    """
    names: list[tuple[str, str]] = []
    for role in roles:
        for attempt in range(100):
            kinds = DIGITS if rng.random() < shares[role] else SHAPES
            name = (COLOR_NAMES[rng.integers(len(COLOR_NAMES))], kinds[rng.integers(len(kinds))])
            if name not in names and (attempt >= 12 or all(name[1] != kind for _, kind in names)):
                break
        names.append(name)
    return names


def sample_thing(rng: np.random.Generator, role: Role, name: tuple[str, str], split: Split) -> Thing:
    """The look and path of one thing; a needle's moment is left to the scene."""
    color, kind = name
    low, high = _SIZES[role]
    is_digit = kind in DIGITS
    size = rng.uniform(max(low, _DIGIT_SIZE), max(high, _DIGIT_SIZE + 0.04)) if is_digit else rng.uniform(low, high)
    rgb = np.clip(np.asarray(COLORS[color]) + rng.uniform(-14, 14, size=3), 0, 255)
    margin = size * 0.53
    start = rng.uniform(margin, 1 - margin, size=2)
    if role == "small":
        # Small things sit near a border, as a logo or a road sign does.
        axis = rng.integers(2)
        start[axis] = rng.choice([margin, 1 - margin]) + rng.uniform(-0.02, 0.02)
        start = np.clip(start, margin, 1 - margin)
    end = start.copy()
    if role == "large" and rng.random() < 0.8:
        start, end = straight(rng, start, margin, (0.32, 0.5), 0.06)
    return Thing(
        role=role,
        color=color,
        kind=kind,
        rgb=(float(rgb[0]), float(rgb[1]), float(rgb[2])),
        size=float(size),
        rotation=float(rng.uniform(-0.2, 0.2)),
        start=(float(start[0]), float(start[1])),
        end=(float(end[0]), float(end[1])),
        digit=int(rng.choice(digit_samples(split)[DIGITS.index(kind)])) if is_digit else -1,
    )


def straight(
    rng: np.random.Generator, start: np.ndarray, margin: float, length: tuple[float, float], drift: float
) -> tuple[np.ndarray, np.ndarray]:
    """A path along one axis that stays within ``margin``: its start, which is ``start`` on the other axis, and its end,
    off by at most ``drift`` there. ``length`` is the least and the most."""
    axis, way = rng.integers(2), rng.choice([-1, 1])
    step = rng.uniform(*length)
    start = start.copy()
    start[axis] = rng.uniform(margin, 1 - margin - step) if way > 0 else rng.uniform(margin + step, 1 - margin)
    end = start.copy()
    end[axis] = start[axis] + way * step
    end[1 - axis] = np.clip(end[1 - axis] + rng.uniform(-drift, drift), margin, 1 - margin)
    return start, end


def sample_scene(
    rng: np.random.Generator, roles: Sequence[Role], names: Sequence[tuple[str, str]], footage: Footage, split: Split
) -> Scene:
    """One scene; a thing that finds no free place in thirty draws is left out (never the large one)."""
    things: list[Thing] = []
    for role, name in zip(roles, names, strict=True):
        for _ in range(30):
            thing = sample_thing(rng, role, name, split)
            if all(_apart(thing, other) for other in things):
                if role == "needle":
                    thing = replace(thing, moment=float(rng.random()))
                things.append(thing)
                break
    return Scene(tuple(things), footage, int(rng.integers(2**31)))


def _apart(a: Thing, b: Thing) -> bool:
    near = 0.56 * (a.size + b.size)
    for u in (0.0, 0.25, 0.5, 0.75, 1.0):
        (ax, ay), (bx, by) = a.centre(u), b.centre(u)
        if np.hypot(ax - bx, ay - by) < near:
            return False
    return True


def render_scene(
    scene: Scene, frames: int, clips: Sequence[Clip], *, size: int = FRAME_SIZE, repeat: int = 1
) -> RenderedScene:
    """Draw a scene over footage of ``clips``.

    Args:
        scene: what to draw.
        frames: frames of the scene.
        clips: footage.
        size: pixels across and down, a multiple of 8.
        repeat: pictures of each frame, for a smooth film; the middle one of an odd number is the frame itself.
    """
    rng = np.random.default_rng(scene.seed)
    # Longer videos show the same seconds more finely, as a higher frame rate does.
    seconds = SCENE_SECONDS / frames
    cut = CUT if scene.footage == "fast" else 0.0
    canvas = excerpt(rng, clips, frames, cut=cut, seconds=seconds, size=size, repeat=repeat)
    cell = size // TOKEN_GRID
    coverage = np.zeros((len(scene.things), frames * repeat, TOKEN_GRID, TOKEN_GRID), dtype=np.float32)
    for index in range(frames * repeat):
        moment = (index + 0.5) / repeat - 0.5
        u = min(max(moment / max(1, frames - 1), 0.0), 1.0)
        for number, thing in enumerate(scene.things):
            if thing.visible(index // repeat, frames):
                alpha = draw_thing(canvas[index], thing, u)
                coverage[number, index] = alpha.reshape(TOKEN_GRID, cell, TOKEN_GRID, cell).mean(axis=(1, 3))
    return RenderedScene(scene, np.round(canvas).astype(np.uint8), coverage)


@dataclass(frozen=True)
class Video:
    """Scenes one after the other; ``lengths`` are their frames."""

    scenes: tuple[Scene, ...]
    lengths: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        return sum(self.lengths)

    @property
    def things(self) -> list[tuple[int, Thing]]:
        """Every thing with the number of its scene, from 0."""
        return [(index, thing) for index, scene in enumerate(self.scenes) for thing in scene.things]

    def unique(self, attribute: str) -> set[str]:
        """Values of an attribute (``"kind"``, ``"name"``) that only one thing of the video has."""
        counts = Counter(getattr(thing, attribute) for _, thing in self.things)
        return {value for value, count in counts.items() if count == 1}


def scene_lengths(rng: np.random.Generator, scenes: int, frames: int, jitter: float) -> tuple[int, ...]:
    """Split ``frames`` over ``scenes``, each at least two; with probability ``jitter`` unevenly."""
    if frames < 2 * scenes:
        raise ArgumentError(f"frames must be at least twice the number of scenes ({scenes}), got {frames}.")
    lengths = np.diff(np.round(np.arange(scenes + 1) * frames / scenes).astype(int))
    if rng.random() < jitter:
        lengths = 2 + rng.multinomial(frames - 2 * scenes, np.full(scenes, 1 / scenes))
    return tuple(int(length) for length in lengths)


def sample_roles(rng: np.random.Generator) -> list[Role]:
    """What a scene holds besides its large thing: most often a small one, clutter, and sometimes a needle."""
    roles: list[Role] = ["large"]
    if rng.random() < 0.65:
        roles.append("small")
    if rng.random() < 0.45:
        roles.append("needle")
    roles += ["clutter"] * int(rng.choice([0, 1, 2], p=[0.2, 0.5, 0.3]))
    return roles


def sample_video(
    rng: np.random.Generator, *, frames: int, footage: Footage, split: Split, scenes: int | None = None
) -> Video:
    """Draw a video of ``frames`` frames; ``scenes`` None draws 4 (80 %) or 3."""
    if scenes is None:
        scenes = 4 if frames >= 8 and rng.random() < 0.8 else 3 if frames >= 6 else 2
    roles = [sample_roles(rng) for _ in range(scenes)]
    names = sample_names(rng, [role for row in roles for role in row])
    drawn = []
    for row in roles:
        mine, names = names[: len(row)], names[len(row) :]
        drawn.append(sample_scene(rng, row, mine, footage, split))
    return Video(tuple(drawn), scene_lengths(rng, scenes, frames, jitter=0.3))
