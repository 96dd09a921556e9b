"""A bank of encoded scenes, and videos put together from it.

The tower sees one frame at a time, so a scene's features do not depend on the video around it: scenes are drawn and
encoded once and then meet in ever new videos, which costs a decoder step nothing but look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from model import TOKENS_PER_FRAME
from torch import Tensor
from vision import NOTHING, SEEN, augment, to_pixels

from framefusion.evaluation.needle.footage import Clip
from framefusion.evaluation.needle.scenes import (
    Footage,
    RenderedScene,
    Scene,
    Video,
    render_scene,
    sample_names,
    sample_roles,
    sample_scene,
    scene_lengths,
)

LENGTHS = {2: 0.26, 3: 0.12, 4: 0.36, 5: 0.08, 6: 0.07, 8: 0.09, 16: 0.02}
"""Frames of a scene, and the share of the bank's scenes that have so many."""
NOBODY, UNCLEAR = -1, -2

Encode = Callable[[Tensor], Tensor]
"""From pixels ``(F, 3, 96, 96)`` to features ``(slots, 64, D)``, ``slots`` a whole share of F."""
_TOGETHER = 16


@dataclass(frozen=True)
class EncodedScene:
    """``features`` float16 ``(slots, 64, D)``; ``owner`` int8 ``(slots, 64)``: the thing under each token."""

    scene: Scene
    features: Tensor
    owner: np.ndarray


def owners(rendered: RenderedScene, slots: int) -> np.ndarray:
    """Which thing each token shows, int8 ``(slots, 64)``, -1 for none, -2 where that is unclear."""
    things, frames = rendered.coverage.shape[:2]
    coverage = rendered.coverage.reshape(things, slots, frames // slots, TOKENS_PER_FRAME).max(axis=2)
    most = coverage.max(axis=0)
    return np.where(most >= SEEN, coverage.argmax(axis=0), np.where(most < NOTHING, NOBODY, UNCLEAR)).astype(np.int8)


class Bank:
    """Encoded training scenes by their number of frames; :meth:`refresh` replaces some of them.

    Args:
        encode: the frozen vision side.
        clips: training footage.
        size: scenes held.
        seed: of everything drawn.
        multiple: scenes have a multiple of so many frames (2 for encoders that take two frames at a time).
    """

    def __init__(self, encode: Encode, clips: Sequence[Clip], size: int, seed: int, multiple: int = 1) -> None:
        self.encode, self.clips, self.multiple = encode, clips, multiple
        self.rng = np.random.default_rng([seed, 17])
        shares = {n * multiple: share for n, share in LENGTHS.items()}
        self.by_length: dict[int, list[EncodedScene]] = {n: [] for n in shares}
        for n, share in shares.items():
            wanted = max(40, round(size * share))
            while len(self.by_length[n]) < wanted:
                self.by_length[n] += self._draw([n] * _TOGETHER)
        counts = np.asarray([len(scenes) for scenes in self.by_length.values()], dtype=float)
        self.shares = counts / counts.sum()

    def _draw(self, lengths: Sequence[int]) -> list[EncodedScene]:
        drawn, pixels = [], []
        for frames in lengths:
            roles = sample_roles(self.rng)
            footage: Footage = "fast" if self.rng.random() < 0.5 else "static"
            scene = sample_scene(self.rng, roles, sample_names(self.rng, roles), footage, "train")
            rendered = render_scene(scene, frames, self.clips)
            drawn.append(rendered)
            pixels.append(augment(to_pixels(rendered.frames)[None], self.rng)[0])
        with torch.no_grad():
            features = self.encode(torch.cat(pixels)).half()
        parts = features.split([frames // self.multiple for frames in lengths])
        return [
            EncodedScene(item.scene, part.clone(), owners(item, len(part)))
            for item, part in zip(drawn, parts, strict=True)
        ]

    def refresh(self, count: int) -> None:
        """Replace ``count`` random scenes by new ones."""
        lengths = self.rng.choice(list(self.by_length), size=count, p=self.shares).tolist()
        for length, scene in zip(lengths, self._draw(lengths), strict=True):
            scenes = self.by_length[length]
            scenes[int(self.rng.integers(len(scenes)))] = scene

    def compose(self, rng: np.random.Generator, frames: int) -> tuple[Video, list[EncodedScene]]:
        """A video of ``frames`` frames out of scenes whose things have few kinds in common."""
        scenes = 4 if rng.random() < 0.8 or frames > 16 * self.multiple else 3
        lengths = scene_lengths(rng, scenes, frames, jitter=0.4)
        while not all(length in self.by_length for length in lengths):
            lengths = scene_lengths(rng, scenes, frames, jitter=0.9 if frames <= 16 * self.multiple else 0.0)
        chosen: list[EncodedScene] = []
        kinds: set[str] = set()
        names: set[str] = set()
        for length in lengths:
            pool = self.by_length[length]
            best, least = pool[0], 99
            for index in rng.integers(len(pool), size=8):
                mine = pool[int(index)].scene.things
                clash = sum(thing.kind in kinds for thing in mine) + 5 * sum(thing.name in names for thing in mine)
                if clash < least:
                    best, least = pool[int(index)], clash
            chosen.append(best)
            kinds |= {thing.kind for thing in best.scene.things}
            names |= {thing.name for thing in best.scene.things}
        return Video(tuple(item.scene for item in chosen), lengths), chosen
