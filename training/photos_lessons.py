"""Training batches of the decoder of photographs: videos of the bank's scenes, questions, dense labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from lessons import ANSWER, PROMPT, UNKNOWN, Texts
from photos_bank import FRAMES
from photos_model import GRID
from torch import Tensor
from vision import IGNORE

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


@dataclass(frozen=True)
class BatchPlan:
    """``videos`` of ``frames`` frames with ``questions`` each, of whose tokens the decoder sees ``tokens``."""

    videos: int
    frames: int
    tokens: int
    questions: int


@dataclass(frozen=True)
class Batch:
    """One step, for V videos of which K tokens are shown, with Q questions each; see :class:`lessons.Batch`.

    ``parse`` int64 ``(V, Q, 3)``: sort, name and ordinal that a question asks.
    """

    features: Tensor
    places: Tensor
    visual: int
    ids: Tensor
    padding: Tensor
    answers: Tensor
    evidence: Tensor
    parse: Tensor
    kinds: np.ndarray
    dense: dict[str, Tensor]


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


class Shown:
    """The shown tokens of one video and what they show."""

    def __init__(self, rng: np.random.Generator, video: Video, scenes: list[SeenScene], tokens: int) -> None:
        self.video = video
        owner = np.concatenate([item.owner for item in scenes]).astype(np.int64).reshape(-1)
        scene = np.repeat(np.arange(len(scenes)), [item.owner.size for item in scenes])
        places = np.arange(owner.size)
        if tokens < owner.size:
            weight = np.where(owner >= 0, 2.5, 1.0)
            places = np.sort(rng.choice(owner.size, size=tokens, replace=False, p=weight / weight.sum()))
        self.places, self.owner, self.scene = places, owner[places], scene[places]
        self.frame = places // CELLS
        self.features = torch.cat([item.features.flatten(0, 1) for item in scenes])[torch.from_numpy(places)].float()

    def shows(self, s: int, t: int) -> np.ndarray:
        return (self.scene == s) & (self.owner == t)

    def evidence(self, question: Question) -> np.ndarray | None:
        """Tokens that a decoder should look at to answer; None if the shown ones cannot tell."""
        masks = [self.shows(s, t) for s, t in question.evidence]
        if not all(mask.any() for mask in masks):
            return None
        if question.sort == "direction":
            late = masks[0] & (self.frame > self.frame[masks[0]].min())
            return late if late.any() else None
        return masks[int(np.argmax([s for s, _ in question.evidence]))]

    def dense(self) -> dict[str, np.ndarray]:
        larges = [scene.large for scene in self.video.scenes]
        names = np.asarray([NAMES.index(thing.kind) for thing in larges])
        known = np.zeros(len(self.places), dtype=bool)
        direction = np.full(len(self.places), IGNORE)
        for s, thing in enumerate(larges):
            inside = np.flatnonzero(self.scene == s)
            large = self.shows(s, 0)
            known[inside] = np.cumsum(large[inside]) > 0
            if large.any():
                later = large & (self.frame > self.frame[large].min())
                direction[later] = WAYS.index(thing.direction) if thing.direction else len(WAYS)

        def where_known(values: np.ndarray) -> np.ndarray:
            return np.where(known, values[self.scene], IGNORE)

        return {
            "scene_name": where_known(names),
            "ordinal": where_known(np.arange(len(larges))),
            "previous_name": where_known(np.concatenate([[len(NAMES)], names[:-1]])),
            "direction": direction,
        }


def asked(question: Question) -> tuple[int, int, int]:
    """Sort, name and ordinal that a question asks; the last class of the latter two is "none"."""
    name = len(NAMES) if question.about is None else NAMES.index(question.about.kind)
    ordinal = len(ORDINALS) if question.ordinal is None else ORDINALS.index(question.ordinal)
    return PHOTO_SORTS.index(question.sort), name, ordinal


def make_batch(step: int, spec: BatchPlan, pool: list[SeenScene], texts: Texts, seed: int) -> Batch:
    """The batch of one step."""
    rng = np.random.default_rng([seed, step])
    share = np.asarray([SHARES[kind] for kind in PHOTO_KINDS])
    rows, ids, padding, answers, evidence, parse, kinds = [], [], [], [], [], [], []
    for _ in range(spec.videos):
        video, scenes = compose(rng, pool, spec.frames)
        shown = Shown(rng, video, scenes, spec.tokens)
        rows.append(shown)
        options = possible(video)
        found: list[tuple[Question, np.ndarray]] = []
        for _ in range(6 * spec.questions):
            question = ask(rng, video, PHOTO_KINDS[rng.choice(len(share), p=share / share.sum())], options)
            tokens = None if question is None else shown.evidence(question)
            if question is not None and tokens is not None:
                found.append((question, tokens))
            if len(found) == spec.questions:
                break
        for index in range(spec.questions):
            if index >= len(found):
                ids.append([texts.pad] * (PROMPT + ANSWER - 1))
                padding.append(PROMPT - 1)
                answers.append([IGNORE] * ANSWER)
                evidence.append(np.zeros(spec.tokens, dtype=bool))
                parse.append((IGNORE,) * 3)
                kinds.append("")
                continue
            question, tokens = found[index]
            prompt, reply = list(texts.prompt(question.text)), texts.answer(question.answer)
            if len(prompt) < PROMPT and rng.random() < UNKNOWN:
                prompt.insert(int(rng.integers(len(prompt) - 2)), texts.unknown)
            pad = PROMPT - len(prompt)
            ids.append([texts.pad] * pad + prompt + (reply + [texts.pad] * ANSWER)[: ANSWER - 1])
            padding.append(pad)
            answers.append((reply + [IGNORE] * ANSWER)[:ANSWER])
            evidence.append(tokens)
            parse.append(asked(question))
            kinds.append(question.kind)
    shape = (spec.videos, spec.questions)
    dense = [row.dense() for row in rows]
    return Batch(
        features=torch.stack([row.features for row in rows]),
        places=torch.from_numpy(np.stack([row.places for row in rows])),
        visual=spec.frames * CELLS,
        ids=torch.tensor(ids).view(*shape, -1),
        padding=torch.tensor(padding).view(shape),
        answers=torch.tensor(answers).view(*shape, -1),
        evidence=torch.from_numpy(np.stack(evidence)).view(*shape, -1),
        parse=torch.tensor(parse).view(*shape, -1),
        kinds=np.asarray(kinds).reshape(shape),
        dense={name: torch.from_numpy(np.stack([row[name] for row in dense])) for name in DENSE_SIZES},
    )
