"""Held-out accuracy of a checkpoint, overall and per question kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from batches import Batch, dense_labels, to_pixels
from checkpoint import TOKENS_PER_FRAME
from objective import answer_logits
from packing import IGNORE, PromptIds, pack_pairs
from questions import Question, sample_questions
from scenes import render, sample_video

HELD_OUT_SEED = 7919
DIGIT_SHARE = 0.2


@dataclass(frozen=True)
class HeldOut:
    """A batch of unseen videos (with unseen handwriting) and its questions, row by row."""

    batch: Batch
    questions: list[list[Question]]


@dataclass
class Scores:
    """Right and asked answers per question kind; an answer is right if every word and its end are."""

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, correct: bool) -> None:
        self.right[kind] = self.right.get(kind, 0) + int(correct)
        self.asked[kind] = self.asked.get(kind, 0) + 1

    def overall(self) -> float:
        return sum(self.right.values()) / sum(self.asked.values())

    def rounded(self) -> dict[str, float]:
        shares = {kind: round(self.right[kind] / self.asked[kind], 3) for kind in sorted(self.asked)}
        return {"all": round(self.overall(), 3)} | shares


def held_out_batches(
    prompts: PromptIds, pad_id: int, *, videos: int, seed: int, frames: int = 8, pairs: int = 10
) -> list[HeldOut]:
    """Unseen videos in batches of eight; ``pairs`` questions each, every kind equally often."""
    result = []
    for first in range(0, videos, 8):
        rendered, questions = [], []
        for index in range(first, min(first + 8, videos)):
            rng = np.random.default_rng([seed, HELD_OUT_SEED, index])
            spec = sample_video(rng, frames=frames, split="test", digit_share=DIGIT_SHARE)
            rendered.append(render(spec))
            questions.append(sample_questions(rng, spec, pairs))
        text = pack_pairs(prompts, [[(q.text, q.answer) for q in row] for row in questions], pad_id)
        pixels = to_pixels(np.stack([video.frames for video in rendered]))
        kept = torch.arange(frames * TOKENS_PER_FRAME).expand(len(rendered), -1)
        labels = dense_labels(rendered)
        result.append(HeldOut(Batch(pixels, kept, labels, labels, text), questions))
    return result


@torch.inference_mode()
def evaluate_model(model: torch.nn.Module, prompts: PromptIds, held_out: list[HeldOut]) -> Scores:
    """Score greedy answers.

    Every position is predicted behind the right previous words; all of them being right is the same
    event as greedy generation giving the right answer.
    """
    was_training = model.training
    model.eval()
    scores = Scores()
    for item in held_out:
        logits, _ = answer_logits(model, prompts, item.batch)
        text = item.batch.text
        assert text is not None
        wrong = (logits.argmax(-1) != text.labels) & (text.labels != IGNORE)
        for row, questions in enumerate(item.questions):
            for number, question in enumerate(questions, start=1):
                scores.add(question.kind, not bool(wrong[row][text.pair[row] == number].any()))
    model.train(was_training)
    return scores


def report(directory: Path, videos: int, seed: int) -> None:
    raise NotImplementedError
