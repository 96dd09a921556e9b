"""Training batches of the decoder: videos of the bank, random subsets of their tokens, questions, dense labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bank import Bank, EncodedScene
from batches import Asking, Batch, BatchPlan, Shown, Texts, collate
from model import TOKENS_PER_FRAME
from vision import IGNORE

from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS
from framefusion.evaluation.needle.questions import ORDINALS, QUESTION_KINDS, SORTS, WAYS, Question, ask, possible
from framefusion.evaluation.needle.scenes import Video

PARSE_SIZES = (len(SORTS), len(KINDS) + 1, len(COLOR_NAMES) + 1, len(ORDINALS) + 1)
DENSE_SIZES = {
    "scene_color": len(COLOR_NAMES),
    "scene_kind": len(KINDS),
    "ordinal": len(ORDINALS),
    "previous_color": len(COLOR_NAMES) + 1,
    "previous_kind": len(KINDS) + 1,
    "direction": len(WAYS) + 1,
    "first": 2,
}


def plan(seed: int, step: int, steps: int, multiple: int = 1) -> BatchPlan:
    """The curriculum: short videos first; later most steps have 8 and 16 frames, some 32 and 64.

    Showing random subsets costs less than showing all tokens and prepares the decoder for shortened videos; whole
    videos come now and then, more often towards the end.
    """
    rng = np.random.default_rng([seed, step, 1])
    progress = step / steps
    if progress < 0.06:
        frames, tokens = 8, 160
    elif rng.random() < (0.06 if progress < 0.6 else 0.3 if progress < 0.9 else 0.6):
        frames = 8 if progress < 0.6 else int(rng.choice([8, 16], p=[0.25, 0.75]))
        tokens = 64 * frames
    else:
        frames = int(rng.choice([8, 16, 32, 64], p=[0.42, 0.42, 0.12, 0.04]))
        tokens = {8: 160, 16: 256, 32: 256, 64: 256}[frames]
    return BatchPlan({160: 8, 256: 6, 512: 4, 1024: 2}[tokens], frames * multiple, tokens, 24)


class NeedleShown(Shown):
    """The shown tokens of one video of the bank."""

    def __init__(self, rng: np.random.Generator, video: Video, scenes: list[EncodedScene], tokens: int) -> None:
        super().__init__(rng, video, scenes, tokens, TOKENS_PER_FRAME, 3.0)
        self.first = np.zeros(len(self.places), dtype=bool)
        """Tokens before which no token shows the same colour and kind."""
        names: set[str] = set()
        for index in np.flatnonzero(self.owner >= 0):
            name = video.scenes[self.scene[index]].things[self.owner[index]].name
            self.first[index] = name not in names
            names.add(name)

    def pointed_at(self, question: Question, masks: Sequence[np.ndarray]) -> np.ndarray:
        if question.sort == "count":
            # What is seen before would count twice.
            return np.logical_or.reduce(masks) & self.first
        return super().pointed_at(question, masks)

    def dense(self) -> dict[str, np.ndarray]:
        larges = [scene.large for scene in self.video.scenes]
        colors = np.asarray([COLOR_NAMES.index(thing.color) for thing in larges])
        kinds = np.asarray([KINDS.index(thing.kind) for thing in larges])
        return {
            **super().dense(),
            "scene_color": self.where_known(colors),
            "scene_kind": self.where_known(kinds),
            "previous_color": self.where_known(np.concatenate([[len(COLOR_NAMES)], colors[:-1]])),
            "previous_kind": self.where_known(np.concatenate([[len(KINDS)], kinds[:-1]])),
            "first": np.where(self.owner >= 0, self.first, IGNORE),
        }


def asked(question: Question) -> tuple[int, int, int, int]:
    """What the words of a question ask: sort, kind, colour, ordinal; the last class of each is "none"."""
    kind, color, ordinal = len(KINDS), len(COLOR_NAMES), len(ORDINALS)
    if question.about is not None:
        kind = KINDS.index(question.about.kind)
        if question.sort in ("direction", "after", "before"):
            color = COLOR_NAMES.index(question.about.color)
    if question.color is not None:
        color = COLOR_NAMES.index(question.color)
    if question.ordinal is not None:
        ordinal = ORDINALS.index(question.ordinal)
    return SORTS.index(question.sort), kind, color, ordinal


ASKING = Asking(
    {kind: {"count": 1.6, "order": 1.4, "direction": 1.2}.get(kind, 1.0) for kind in QUESTION_KINDS},
    possible,
    ask,
    asked,
    parsed=len(PARSE_SIZES),
    tries=4,
)


def make_batch(step: int, spec: BatchPlan, bank: Bank, texts: Texts, seed: int) -> Batch:
    """The batch of one step."""
    rng = np.random.default_rng([seed, step])
    return collate(rng, spec, lambda: NeedleShown(rng, *bank.compose(rng, spec.frames), spec.tokens), ASKING, texts)
