"""Scenes and videos of photographed things over real footage, and questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from framefusion.evaluation.needle.footage import Clip, excerpt
from framefusion.evaluation.needle.objects import Role, Split
from framefusion.evaluation.needle.photos import NAMES, Cutout, paste, pictures
from framefusion.evaluation.needle.scenes import (
    CUT,
    SCENE_SECONDS,
    Footage,
    RenderedScene,
    Scene,
    Video,
    scene_lengths,
    straight,
)

PHOTO_SIZE = 168
"""Pixels across and down a frame: 12 × 12 patches of DINOv2, pooled to 6 × 6 tokens."""
PHOTO_GRID = 6
_SIZES: dict[Role, tuple[float, float]] = {
    "large": (0.44, 0.56),
    "small": (0.25, 0.31),
    "needle": (0.33, 0.40),
    "clutter": (0.32, 0.38),
}


def sample_roles(rng: np.random.Generator) -> list[Role]:
    """What a scene holds besides its large thing: most often a small one, half the time a needle, sometimes clutter."""
    roles: list[Role] = ["large"]
    for role, share in (("small", 0.75), ("needle", 0.5), ("clutter", 0.25)):
        if rng.random() < share:
            roles.append(role)  # type: ignore[arg-type]
    return roles


def sample_cutout(rng: np.random.Generator, role: Role, name: str, split: Split) -> Cutout:
    """The picture, size and path of one thing; a needle's moment is left to the scene."""
    size = rng.uniform(*_SIZES[role])
    margin = size * 0.5
    start = rng.uniform(margin, 1 - margin, size=2)
    end = start.copy()
    if role == "large" and rng.random() < 0.8:
        start, end = straight(rng, start, margin, (0.3, 0.42), 0.05)
    known = pictures(name, split)
    return Cutout(
        role=role,
        color="",
        kind=name,
        rgb=(0.0, 0.0, 0.0),
        size=float(size),
        rotation=float(rng.uniform(-0.2, 0.2)),
        start=(float(start[0]), float(start[1])),
        end=(float(end[0]), float(end[1])),
        picture=known[int(rng.integers(len(known)))],
        mirrored=bool(rng.random() < 0.5),
    )


def sample_scene(
    rng: np.random.Generator, roles: Sequence[Role], names: Sequence[str], footage: Footage, split: Split
) -> Scene:
    """One scene; a thing that finds no free place in a hundred draws is left out (never the large one)."""
    things: list[Cutout] = []
    for role, name in zip(roles, names, strict=True):
        for _ in range(100):
            thing = sample_cutout(rng, role, name, split)
            if all(_apart(thing, other) for other in things):
                things.append(replace(thing, moment=float(rng.random())) if role == "needle" else thing)
                break
    return Scene(tuple(things), footage, int(rng.integers(2**31)))


def _apart(a: Cutout, b: Cutout) -> bool:
    # Few pictures fill their square, so that corners may meet.
    near = 0.47 * (a.size + b.size)
    paths = zip(np.linspace(a.start, a.end, 5), np.linspace(b.start, b.end, 5), strict=True)
    return all(np.hypot(*(here - there)) >= near for here, there in paths)


def sample_video(
    rng: np.random.Generator, *, frames: int, footage: Footage, split: Split, scenes: int | None = None
) -> Video:
    """Draw a video of ``frames`` frames in which every name is shown once; ``scenes`` None draws 4 (80 %) or 3."""
    if scenes is None:
        scenes = 4 if frames >= 8 and rng.random() < 0.8 else 3
    roles = [sample_roles(rng) for _ in range(scenes)]
    names = [NAMES[i] for i in rng.permutation(len(NAMES))]
    drawn = []
    for row in roles:
        mine, names = names[: len(row)], names[len(row) :]
        drawn.append(sample_scene(rng, row, mine, footage, split))
    return Video(tuple(drawn), scene_lengths(rng, scenes, frames, jitter=0.3))


def render_scene(scene: Scene, frames: int, clips: Sequence[Clip], folder: Path) -> RenderedScene:
    """Draw a scene over footage of ``clips`` with pictures of ``folder``.

    Returns:
        ``frames`` uint8 ``(F, 168, 168, 3)``; ``coverage`` float32 ``(things, F, 6, 6)``.
    """
    rng = np.random.default_rng(scene.seed)
    cut = CUT if scene.footage == "fast" else 0.0
    canvas = excerpt(rng, clips, frames, cut=cut, seconds=SCENE_SECONDS / frames, size=PHOTO_SIZE)
    cell = PHOTO_SIZE // PHOTO_GRID
    coverage = np.zeros((len(scene.things), frames, PHOTO_GRID, PHOTO_GRID), dtype=np.float32)
    for index in range(frames):
        for number, thing in enumerate(scene.things):
            if thing.visible(index, frames):
                assert isinstance(thing, Cutout)
                alpha = paste(canvas[index], thing, index / max(1, frames - 1), folder)
                coverage[number, index] = alpha.reshape(PHOTO_GRID, cell, PHOTO_GRID, cell).mean(axis=(1, 3))
    return RenderedScene(scene, np.round(np.clip(canvas, 0, 255)).astype(np.uint8), coverage)
