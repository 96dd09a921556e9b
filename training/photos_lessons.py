"""Training batches of the decoder of photographs: videos of the bank's scenes, questions, dense labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from batches import Asking, Batch, BatchPlan, Shown, Texts, collate
from photos_bank import FRAMES
from photos_model import GRID
from torch import Tensor

from framefusion.evaluation.needle.photo_questions import PHOTO_KINDS, PHOTO_SORTS, ask, possible
from framefusion.evaluation.needle.photos import NAMES
from framefusion.evaluation.needle.questions import ORDINALS, WAYS, Question
from framefusion.evaluation.needle.scenes import Scene, Video, scene_lengths

CELLS = GRID * GRID
PARSE_SIZES = (len(PHOTO_SORTS), len(NAMES) + 1, len(ORDINALS) + 1)
DENSE_SIZES = {
    "scene_name": len(NAMES),
    "ordinal": len(ORDINALS),
    "previous_name": len(NAMES) + 1,
    "direction": len(WAYS) + 1,
}
SHARES = {"large": 1.0, "small": 1.0, "needle": 1.0, "order": 1.5, "direction": 1.3, "scene": 0.8}
"""How often a kind is asked, beside the others."""


@dataclass(frozen=True)
class SeenScene:
    """A scene of the bank: projected ``features`` float16 ``(6, 36, D)``; ``owner`` int8 ``(6, 36)``: the thing under
    each token, -1 for none, -2 where that is unclear."""

    scene: Scene
    features: Tensor
    owner: np.ndarray


def plan(seed: int, step: int, steps: int, questions: int) -> BatchPlan:
    """Most steps show a random part of 8 or 16 frames; some, and more towards the end, show all of 16."""
    rng = np.random.default_rng([seed, step, 1])
    if rng.random() < (0.1 if step < 0.5 * steps else 0.35):
        return BatchPlan(2, 16, 16 * CELLS, questions)
    return BatchPlan(6, int(rng.choice([8, 16], p=[0.3, 0.7])), 4 * CELLS, questions)


def cut_out(rng: np.random.Generator, item: SeenScene, length: int) -> SeenScene:
    """``length`` frames of a scene, evenly spaced, with the frames of its needles among them where that can be.

    A thing's path is the part that is seen, so that one that moves across few frames moves less.
    """
    ways = [(o, s) for s in range(1, FRAMES) for o in range(FRAMES) if o + s * (length - 1) < FRAMES]
    # Far apart is nearer to what a short scene of the benchmark shows.
    widest = max(s for _, s in ways)
    ways = [(o, s) for o, s in ways if s == widest] + ways
    needles = [int(t.moment * FRAMES) for t in item.scene.things if t.role == "needle"]
    best = [(o, s) for o, s in ways if all(n in range(o, o + s * length, s) for n in needles)] or ways
    first, stride = best[int(rng.integers(len(best)))]
    chosen = np.arange(first, first + stride * length, stride)
    return replace(item, features=item.features[chosen], owner=item.owner[chosen])


def compose(rng: np.random.Generator, pool: list[SeenScene], frames: int) -> tuple[Video, list[SeenScene]]:
    """A video out of scenes with few names in common."""
    count = 4 if rng.random() < 0.8 else 3
    lengths = scene_lengths(rng, count, frames, jitter=0.4)
    while max(lengths) > FRAMES:
        lengths = scene_lengths(rng, count, frames, jitter=0.4)
    chosen: list[SeenScene] = []
    names: set[str] = set()
    for length in lengths:
        some = [pool[int(i)] for i in rng.integers(len(pool), size=8)]
        item = min(some, key=lambda one: sum(thing.kind in names for thing in one.scene.things))
        names |= {thing.kind for thing in item.scene.things}
        chosen.append(cut_out(rng, item, length))
    return Video(tuple(item.scene for item in chosen), lengths), chosen


class PhotoShown(Shown):
    """The shown tokens of one video of photographs."""

    def __init__(self, rng: np.random.Generator, video: Video, scenes: list[SeenScene], tokens: int) -> None:
        super().__init__(rng, video, scenes, tokens, CELLS, 2.5)

    def dense(self) -> dict[str, np.ndarray]:
        names = np.asarray([NAMES.index(scene.large.kind) for scene in self.video.scenes])
        previous = np.concatenate([[len(NAMES)], names[:-1]])
        return {
            **super().dense(),
            "scene_name": self.where_known(names),
            "previous_name": self.where_known(previous),
        }


def asked(question: Question) -> tuple[int, int, int]:
    """Sort, name and ordinal that a question asks; the last class of the latter two is "none"."""
    name = len(NAMES) if question.about is None else NAMES.index(question.about.kind)
    ordinal = len(ORDINALS) if question.ordinal is None else ORDINALS.index(question.ordinal)
    return PHOTO_SORTS.index(question.sort), name, ordinal


ASKING = Asking({kind: SHARES[kind] for kind in PHOTO_KINDS}, possible, ask, asked, parsed=len(PARSE_SIZES), tries=6)


def make_batch(step: int, spec: BatchPlan, pool: list[SeenScene], texts: Texts, seed: int) -> Batch:
    """The batch of one step."""
    rng = np.random.default_rng([seed, step])
    return collate(rng, spec, lambda: PhotoShown(rng, *compose(rng, pool, spec.frames), spec.tokens), ASKING, texts)
