"""Training batches of the decoder: videos of the bank, random subsets of their tokens, questions, dense labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from bank import Bank, EncodedScene
from checkpoint import END, START
from model import TOKENS_PER_FRAME
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from vision import IGNORE

from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS
from framefusion.evaluation.needle.questions import ORDINALS, QUESTION_KINDS, SORTS, WAYS, Question, ask, possible
from framefusion.evaluation.needle.scenes import Video

PROMPT, ANSWER = 14, 3
"""Tokens of a prompt behind the video, padded on the left, and predicted tokens of an answer."""
UNKNOWN = 0.15
"""Share of prompts with a word that the tokenizer does not know, so that one more word does no harm."""
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


@dataclass(frozen=True)
class BatchPlan:
    """``videos`` of ``frames`` frames with ``questions`` each, of whose tokens the decoder sees ``tokens``."""

    videos: int
    frames: int
    tokens: int
    questions: int


@dataclass(frozen=True)
class Batch:
    """One step of the decoder, for V videos of which K tokens are shown, with Q questions each.

    ``features`` float32 ``(V, K, D)``; ``places`` int64 ``(V, K)`` ascending positions among the video's
    ``frames * 64`` tokens; ``ids`` int64 ``(V, Q, 14 + 2)``: prompt, padded on the left, and the answer's words;
    ``padding`` int64 ``(V, Q)`` padded tokens; ``answers`` int64 ``(V, Q, 3)``, -100 where nothing is to be said (all
    of it if the shown tokens do not hold the answer); ``evidence`` bool ``(V, Q, K)``: tokens to look at;
    ``parse`` int64 ``(V, Q, 4)``: what is asked, the sort first; ``dense``: labels of the shown tokens, each int64
    ``(V, K)``.
    """

    features: Tensor
    places: Tensor
    visual: int
    ids: Tensor
    padding: Tensor
    answers: Tensor
    evidence: Tensor
    parse: Tensor
    dense: dict[str, Tensor]


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


class Texts:
    """Token ids of prompts and answers, as the chat template lays them out."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad, self.unknown = tokenizer.pad_token_id, tokenizer.unk_token_id

    @lru_cache(maxsize=100_000)  # noqa: B019 - one instance lives as long as the process
    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, question: str) -> list[int]:
        return self.encode(f"{question}{END}{START}assistant")

    def answer(self, answer: str) -> list[int]:
        return self.encode(f"{answer}{END}")


class _Shown:
    """The shown tokens of one video and what they show."""

    def __init__(self, rng: np.random.Generator, video: Video, scenes: list[EncodedScene], tokens: int) -> None:
        self.video = video
        owner = np.concatenate([item.owner for item in scenes]).astype(np.int64).reshape(-1)
        scene = np.repeat(np.arange(len(scenes)), [item.owner.size for item in scenes])
        if tokens < owner.size:
            weight = np.where(owner >= 0, 3.0, 1.0)
            places = np.sort(rng.choice(owner.size, size=tokens, replace=False, p=weight / weight.sum()))
        else:
            places = np.arange(owner.size)
        self.places, self.owner, self.scene = places, owner[places], scene[places]
        self.frame = places // TOKENS_PER_FRAME
        flat = torch.cat([item.features.flatten(0, 1) for item in scenes])
        self.features = flat[torch.from_numpy(places)].float()
        self.large = [(self.scene == s) & (self.owner == 0) for s in range(len(scenes))]
        self.first = np.zeros(len(self.places), dtype=bool)
        """Tokens before which no token shows the same colour and kind."""
        names: set[str] = set()
        for index in np.flatnonzero(self.owner >= 0):
            name = video.scenes[self.scene[index]].things[self.owner[index]].name
            self.first[index] = name not in names
            names.add(name)

    def shows(self, s: int, t: int) -> np.ndarray:
        return (self.scene == s) & (self.owner == t)

    def evidence(self, question: Question) -> np.ndarray | None:
        """Tokens that a decoder should look at to answer; None if the shown ones cannot tell."""
        masks = [self.shows(s, t) for s, t in question.evidence]
        if not all(mask.any() for mask in masks):
            return None
        if question.sort == "direction":
            seen = self.frame[masks[0]]
            late = masks[0] & (self.frame > seen.min())
            return late if late.any() else None
        if question.sort in ("after", "before"):
            return masks[int(np.argmax([s for s, _ in question.evidence]))]
        if question.sort == "count":
            # What is seen before would count twice.
            return np.logical_or.reduce(masks) & self.first
        return np.logical_or.reduce(masks)

    def dense(self) -> dict[str, np.ndarray]:
        larges = [scene.large for scene in self.video.scenes]
        colors = np.asarray([COLOR_NAMES.index(thing.color) for thing in larges])
        kinds = np.asarray([KINDS.index(thing.kind) for thing in larges])
        none_c, none_k = len(COLOR_NAMES), len(KINDS)
        known = np.zeros(len(self.places), dtype=bool)
        direction = np.full(len(self.places), IGNORE)
        for s, thing in enumerate(larges):
            inside = np.flatnonzero(self.scene == s)
            large = self.large[s]
            known[inside] = np.cumsum(large[inside]) > 0
            if large.any():
                later = large & (self.frame > self.frame[large].min())
                direction[later] = WAYS.index(thing.direction) if thing.direction else len(WAYS)

        def where_known(values: np.ndarray) -> np.ndarray:
            return np.where(known, values[self.scene], IGNORE)

        return {
            "scene_color": where_known(colors),
            "scene_kind": where_known(kinds),
            "ordinal": where_known(np.arange(len(larges))),
            "previous_color": where_known(np.concatenate([[none_c], colors[:-1]])),
            "previous_kind": where_known(np.concatenate([[none_k], kinds[:-1]])),
            "direction": direction,
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


def make_batch(step: int, spec: BatchPlan, bank: Bank, texts: Texts, seed: int) -> Batch:
    """The batch of one step."""
    rng = np.random.default_rng([seed, step])
    rows, ids, padding, answers, evidence, parse = [], [], [], [], [], []
    share = np.asarray([{"count": 1.6, "order": 1.4, "direction": 1.2}.get(kind, 1.0) for kind in QUESTION_KINDS])
    for _ in range(spec.videos):
        video, scenes = bank.compose(rng, spec.frames)
        shown = _Shown(rng, video, scenes, spec.tokens)
        rows.append(shown)
        options = possible(video)
        found: list[tuple[Question, np.ndarray]] = []
        for _ in range(4 * spec.questions):
            question = ask(rng, video, QUESTION_KINDS[rng.choice(len(share), p=share / share.sum())], options)
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
                parse.append((IGNORE,) * 4)
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
    shape = (spec.videos, spec.questions)
    dense = [row.dense() for row in rows]
    return Batch(
        features=torch.stack([row.features for row in rows]),
        places=torch.from_numpy(np.stack([row.places for row in rows])),
        visual=sum(item.owner.size for item in scenes),
        ids=torch.tensor(ids).view(*shape, -1),
        padding=torch.tensor(padding).view(shape),
        answers=torch.tensor(answers).view(*shape, -1),
        evidence=torch.from_numpy(np.stack(evidence)).view(*shape, -1),
        parse=torch.tensor(parse).view(*shape, -1),
        dense={name: torch.from_numpy(np.stack([row[name] for row in dense])) for name in DENSE_SIZES},
    )
