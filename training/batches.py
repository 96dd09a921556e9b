"""What batches of both decoders have in common: shown tokens of videos, questions as ids, what is to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from checkpoint import END, START
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from vision import IGNORE

from framefusion.evaluation.needle.questions import WAYS, Option, Question
from framefusion.evaluation.needle.scenes import Video

PROMPT, ANSWER = 14, 3
"""Tokens of a prompt behind the video, padded on the left, and predicted tokens of an answer."""
UNKNOWN = 0.15
"""Share of prompts with a word that the tokenizer does not know, so that one more word does no harm."""


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

    ``features`` float32 ``(V, K, D)``; ``places`` int64 ``(V, K)`` ascending positions among the video's ``visual``
    tokens; ``ids`` int64 ``(V, Q, 14 + 2)``: prompt, padded on the left, and the answer's words; ``padding`` int64
    ``(V, Q)`` padded tokens; ``answers`` int64 ``(V, Q, 3)``, -100 where nothing is to be said (all of it if the shown
    tokens do not hold the answer); ``evidence`` bool ``(V, Q, K)``: tokens to look at; ``parse`` int64 ``(V, Q, P)``:
    what is asked, the sort first; ``kinds`` ``(V, Q)`` of the questions, empty where there is none; ``dense``: labels
    of the shown tokens, each int64 ``(V, K)``.
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


class EncodedScene(Protocol):
    """A scene's ``features`` float16 ``(frames, tokens, D)`` and ``owner`` int8 ``(frames, tokens)``, the thing under
    each token, below 0 for none."""

    features: Tensor
    owner: np.ndarray


class Shown:
    """The shown tokens of one video and what they show.

    Args:
        rng: draws them.
        video: what is seen.
        scenes: of the video, encoded.
        tokens: how many are shown.
        per_frame: tokens of a frame.
        preference: how much rather a token on a thing is shown than another.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        video: Video,
        scenes: Sequence[EncodedScene],
        tokens: int,
        per_frame: int,
        preference: float,
    ) -> None:
        self.video = video
        owner = np.concatenate([item.owner for item in scenes]).astype(np.int64).reshape(-1)
        scene = np.repeat(np.arange(len(scenes)), [item.owner.size for item in scenes])
        places = np.arange(owner.size)
        if tokens < owner.size:
            weight = np.where(owner >= 0, preference, 1.0)
            places = np.sort(rng.choice(owner.size, size=tokens, replace=False, p=weight / weight.sum()))
        self.visual = owner.size
        self.places, self.owner, self.scene = places, owner[places], scene[places]
        self.frame = places // per_frame
        self.features = torch.cat([item.features.flatten(0, 1) for item in scenes])[torch.from_numpy(places)].float()

    def shows(self, s: int, t: int) -> np.ndarray:
        """Tokens that show thing ``t`` of scene ``s``."""
        return (self.scene == s) & (self.owner == t)

    def later(self, mask: np.ndarray) -> np.ndarray:
        """Those of the tokens that are not of the first of their frames, so that they tell where a thing moved."""
        return mask & (self.frame > self.frame[mask].min())

    def evidence(self, question: Question) -> np.ndarray | None:
        """Tokens that a decoder should look at to answer; None if the shown ones cannot tell."""
        masks = [self.shows(s, t) for s, t in question.evidence]
        if not all(mask.any() for mask in masks):
            return None
        if question.sort == "direction":
            later = self.later(masks[0])
            return later if later.any() else None
        return self.pointed_at(question, masks)

    def pointed_at(self, question: Question, masks: Sequence[np.ndarray]) -> np.ndarray:
        """Of all tokens that show what a question is about, those to look at: in the last scene."""
        return masks[int(np.argmax([s for s, _ in question.evidence]))]

    def dense(self) -> dict[str, np.ndarray]:
        """Labels of the tokens: the scene's number, once its large thing was shown, and where that moves."""
        return {"ordinal": self.where_known(np.arange(len(self.video.scenes))), "direction": self._directions()}

    def where_known(self, values: np.ndarray) -> np.ndarray:
        """A value of each scene at its tokens, from the first on that shows the scene's large thing."""
        known = np.zeros(len(self.places), dtype=bool)
        for s in range(len(self.video.scenes)):
            inside = np.flatnonzero(self.scene == s)
            known[inside] = np.cumsum(self.shows(s, 0)[inside]) > 0
        return np.where(known, values[self.scene], IGNORE)

    def _directions(self) -> np.ndarray:
        direction = np.full(len(self.places), IGNORE)
        for s, scene in enumerate(self.video.scenes):
            large, way = self.shows(s, 0), scene.large.direction
            if large.any():
                direction[self.later(large)] = WAYS.index(way) if way else len(WAYS)
        return direction


@dataclass(frozen=True)
class Asking:
    """What is asked about videos.

    Attributes:
        shares: kinds of questions, and how often each is asked beside the others.
        possible, ask: of ``framefusion.evaluation.needle``.
        parse: what the words of a question ask, as many labels as ``parsed``.
        parsed: how many.
        tries: questions that are drawn for each one wanted, as the shown tokens do not tell every answer.
    """

    shares: Mapping[str, float]
    possible: Callable[[Video], dict[str, list[Option]]]
    ask: Callable[..., Question | None]
    parse: Callable[[Question], tuple[int, ...]]
    parsed: int
    tries: int

    def draw(self, rng: np.random.Generator, shown: Shown, count: int) -> list[tuple[Question, np.ndarray]]:
        """At most ``count`` questions that the shown tokens answer, with those to look at."""
        options, kinds, shares = self.possible(shown.video), list(self.shares), np.asarray(list(self.shares.values()))
        found: list[tuple[Question, np.ndarray]] = []
        for _ in range(self.tries * count):
            kind = kinds[rng.choice(len(shares), p=shares / shares.sum())]
            question = self.ask(rng, shown.video, kind, options)
            tokens = None if question is None else shown.evidence(question)
            if question is not None and tokens is not None:
                found.append((question, tokens))
            if len(found) == count:
                break
        return found


def collate(
    rng: np.random.Generator, spec: BatchPlan, show: Callable[[], Shown], asking: Asking, texts: Texts
) -> Batch:
    """A batch of what ``show`` draws, video by video, and of questions about it."""
    rows: list[Shown] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("ids", "padding", "answers", "evidence", "parse", "kinds")}
    for _ in range(spec.videos):
        shown = show()
        rows.append(shown)
        found = asking.draw(rng, shown, spec.questions)
        for index in range(spec.questions):
            own = _question(rng, *found[index], asking, texts) if index < len(found) else _none(spec, asking, texts)
            for name, values in columns.items():
                values.append(own[name])
    shape, dense = (spec.videos, spec.questions), [row.dense() for row in rows]
    return Batch(
        features=torch.stack([row.features for row in rows]),
        places=torch.from_numpy(np.stack([row.places for row in rows])),
        visual=rows[-1].visual,
        ids=torch.tensor(columns["ids"]).view(*shape, -1),
        padding=torch.tensor(columns["padding"]).view(shape),
        answers=torch.tensor(columns["answers"]).view(*shape, -1),
        evidence=torch.from_numpy(np.stack(columns["evidence"])).view(*shape, -1),
        parse=torch.tensor(columns["parse"]).view(*shape, -1),
        kinds=np.asarray(columns["kinds"]).reshape(shape),
        dense={name: torch.from_numpy(np.stack([row[name] for row in dense])) for name in dense[0]},
    )


def _question(
    rng: np.random.Generator, question: Question, tokens: np.ndarray, asking: Asking, texts: Texts
) -> dict[str, Any]:
    prompt, reply = list(texts.prompt(question.text)), texts.answer(question.answer)
    if len(prompt) < PROMPT and rng.random() < UNKNOWN:
        prompt.insert(int(rng.integers(len(prompt) - 2)), texts.unknown)
    pad = PROMPT - len(prompt)
    return {
        "ids": [texts.pad] * pad + prompt + (reply + [texts.pad] * ANSWER)[: ANSWER - 1],
        "padding": pad,
        "answers": (reply + [IGNORE] * ANSWER)[:ANSWER],
        "evidence": tokens,
        "parse": asking.parse(question),
        "kinds": question.kind,
    }


def _none(spec: BatchPlan, asking: Asking, texts: Texts) -> dict[str, Any]:
    """In the place of a question where the shown tokens answer too few."""
    return {
        "ids": [texts.pad] * (PROMPT + ANSWER - 1),
        "padding": PROMPT - 1,
        "answers": [IGNORE] * ANSWER,
        "evidence": np.zeros(spec.tokens, dtype=bool),
        "parse": (IGNORE,) * asking.parsed,
        "kinds": "",
    }
