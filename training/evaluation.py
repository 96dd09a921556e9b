"""Held-out accuracy of a checkpoint, overall and per question kind."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from batches import Batch, dense_labels, to_pixels
from checkpoint import TOKENS_PER_FRAME
from objective import answer_logits
from packing import IGNORE, PromptIds, pack_pairs
from questions import QUESTION_KINDS, Question, sample_questions
from scenes import VideoSpec, render, sample_video
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration, ProcessorMixin
from video_files import read_frames, sample_uniformly, write_mp4

HELD_OUT_SEED = 7919
DIGIT_SHARE = 0.1


@dataclass(frozen=True)
class HeldOut:
    """A batch of unseen videos (with unseen handwriting) and its questions, row by row."""

    batch: Batch
    questions: list[list[Question]]
    specs: list[VideoSpec]


@dataclass
class Scores:
    """Right and asked answers per question kind; an answer is right if every word and its end are."""

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, correct: bool) -> None:
        self.right[kind] = self.right.get(kind, 0) + int(correct)
        self.asked[kind] = self.asked.get(kind, 0) + 1

    def overall(self) -> float:
        return sum(self.right.values()) / self.total()

    def total(self) -> int:
        return sum(self.asked.values())

    def rounded(self) -> dict[str, float]:
        shares = {kind: round(self.right[kind] / self.asked[kind], 3) for kind in sorted(self.asked)}
        return {"all": round(self.overall(), 3)} | shares


def held_out_batches(
    prompts: PromptIds, pad_id: int, *, videos: int, seed: int, frames: int = 8, pairs: int = 10
) -> list[HeldOut]:
    """Unseen videos in batches of eight; ``pairs`` questions each, every kind equally often."""
    result = []
    for first in range(0, videos, 8):
        rendered, questions, specs = [], [], []
        for index in range(first, min(first + 8, videos)):
            rng = np.random.default_rng([seed, HELD_OUT_SEED, index])
            spec = sample_video(rng, frames=frames, split="test", digit_share=DIGIT_SHARE)
            specs.append(spec)
            rendered.append(render(spec))
            questions.append(sample_questions(rng, spec, pairs))
        text = pack_pairs(prompts, [[(q.text, q.answer) for q in row] for row in questions], pad_id)
        pixels = to_pixels(np.stack([video.frames for video in rendered]))
        kept = torch.arange(frames * TOKENS_PER_FRAME).expand(len(rendered), -1)
        labels = dense_labels(rendered)
        result.append(HeldOut(Batch(pixels, kept, labels, labels, text), questions, specs))
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


def through_codec(spec: VideoSpec, processor: ProcessorMixin, directory: Path) -> torch.Tensor:
    """What the processor makes of ``spec`` as a 256-pixel H.264 file, ``(T, 3, 64, 64)``.

    The file has three frames for each of the video's, of which the middle one is sampled again.
    """
    slow = VideoSpec(tuple(replace(scene, frames=3 * scene.frames) for scene in spec.scenes))
    path = directory / "video.mp4"
    write_mp4(path, render(slow, size=256).frames, fps=12)
    frames = sample_uniformly(read_frames(path), spec.num_frames)
    return processor.video_processor(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]


def most_frequent_answers(prompts: PromptIds, seed: int, videos: int = 3000) -> dict[str, str]:
    """The most frequent training answer to each question text, and ("kind:" + kind) to each question kind."""
    counts: dict[str, Counter[str]] = {}
    for index in range(videos):
        rng = np.random.default_rng([seed, 104_729, index])
        spec = sample_video(rng, digit_share=DIGIT_SHARE)
        for question in sample_questions(rng, spec, 10):
            for key in (question.text, f"kind:{question.kind}"):
                counts.setdefault(key, Counter())[question.answer] += 1
    return {key: count.most_common(1)[0][0] for key, count in counts.items()}


def guess_without_video(held_out: list[HeldOut], frequent: dict[str, str]) -> Scores:
    """Score the most frequent training answer to the same text, or else to the same kind of question."""
    scores = Scores()
    for item in held_out:
        for question in (question for row in item.questions for question in row):
            guess = frequent.get(question.text, frequent[f"kind:{question.kind}"])
            scores.add(question.kind, guess == question.answer)
    return scores


def _with(item: HeldOut, **changes: object) -> HeldOut:
    return HeldOut(replace(item.batch, **changes), item.questions, item.specs)


def _random_subset(item: HeldOut, keep: float, seed: int) -> HeldOut:
    rng = np.random.default_rng([seed, 3])
    count = item.batch.kept.shape[1]
    rows = [np.sort(rng.choice(count, round(keep * count), replace=False)) for _ in item.questions]
    return _with(item, kept=torch.from_numpy(np.stack(rows)))


def measure(directory: Path, *, videos: int, seed: int) -> dict[str, dict[str, float]]:
    """All held-out numbers of the checkpoint in ``directory``: share of right answers per condition and kind."""
    processor = AutoProcessor.from_pretrained(directory)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(directory).eval()
    prompts, pad_id = PromptIds(processor.tokenizer), processor.tokenizer.pad_token_id
    held_out = held_out_batches(prompts, pad_id, videos=videos, seed=seed)
    few = held_out[: max(1, len(held_out) // 4)]
    results = {"all tokens": evaluate_model(model, prompts, held_out)}
    blank = [_with(item, pixels=torch.zeros_like(item.batch.pixels)) for item in held_out]
    results["blank video"] = evaluate_model(model, prompts, blank)
    results["most frequent answer"] = guess_without_video(held_out, most_frequent_answers(prompts, seed))
    with tempfile.TemporaryDirectory() as name:
        decoded = [
            _with(item, pixels=torch.stack([through_codec(spec, processor, Path(name)) for spec in item.specs]))
            for item in few
        ]
    results["256-pixel H.264 file"] = evaluate_model(model, prompts, decoded)
    longer = held_out_batches(prompts, pad_id, videos=len(few) * 8, seed=seed, frames=16)
    results["16 frames"] = evaluate_model(model, prompts, longer)
    some = [_random_subset(item, 0.2, seed) for item in held_out]
    results["random 20 % of tokens"] = evaluate_model(model, prompts, some)
    return {name: scores.rounded() | {"questions": scores.total()} for name, scores in results.items()}


def print_table(results: dict[str, dict[str, float]]) -> None:
    """Print ``measure``'s result, one line per condition, in percent."""
    columns = ("all", *QUESTION_KINDS)
    print(f"{'':24}" + "".join(f"{column:>9}" for column in columns) + f"{'questions':>11}")
    for name, scores in results.items():
        cells = "".join(f"{100 * scores.get(column, float('nan')):8.1f}%" for column in columns)
        print(f"{name:24}{cells}{scores['questions']:11d}")
    guess = max(results[name]["all"] for name in ("blank video", "most frequent answer"))
    print(f"held-out accuracy {100 * results['all tokens']['all']:.1f} %, text-only guess {100 * guess:.1f} %")
