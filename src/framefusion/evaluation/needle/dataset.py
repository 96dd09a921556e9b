"""The benchmark's videos and questions, deterministic from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from framefusion.errors import ArgumentError
from framefusion.evaluation.needle.footage import Clip, bundled_clips
from framefusion.evaluation.needle.objects import Split
from framefusion.evaluation.needle.questions import QUESTION_KINDS, Question, sample_questions
from framefusion.evaluation.needle.scenes import Footage, RenderedScene, Video, render_scene, sample_video

FRAME_COUNTS = (8, 16, 32, 64)
"""Frame counts that the bundled checkpoint was trained for."""
ASKED_KINDS = tuple(kind for kind in QUESTION_KINDS if kind != "count")
"""Kinds that are asked unless said otherwise. The bundled checkpoint counts right too rarely, even with all tokens, for
methods to be told apart (``training/README.md``)."""
_TEST = 90_001


@dataclass(frozen=True)
class NeedleQuestion:
    """A question, its one right answer in lower-case words, and its kind."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class NeedleVideo:
    """One video: ``frames`` uint8 ``(T, 96, 96, 3)``, ``footage`` ``"static"`` or ``"fast"``, and its questions."""

    id: str
    footage: Footage
    questions: tuple[NeedleQuestion, ...]
    frames: np.ndarray = field(repr=False)


def draw(index: int, frames: int, seed: int, split: Split) -> tuple[Video, np.random.Generator]:
    """The description of video ``index``, and the generator to go on with; even ones are static, odd ones fast."""
    rng = np.random.default_rng([_TEST, seed, index])
    footage: Footage = "fast" if index % 2 else "static"
    return sample_video(rng, frames=frames, footage=footage, split=split), rng


def load(
    frames: int = 16,
    videos: int = 120,
    seed: int = 0,
    *,
    questions: int = 14,
    kinds: Sequence[str] = ASKED_KINDS,
    split: Split = "test",
    clips: Sequence[Clip] | None = None,
) -> list[NeedleVideo]:
    """Draw the set.

    Args:
        frames: frames of each video, at least 6; the same seed shows the same scenes at any number from 8 on.
        videos: how many videos; half of them over static footage, half over fast-cut footage.
        seed: of everything drawn.
        questions: questions about each video, kinds in turn.
        kinds: question kinds to draw from; default :data:`ASKED_KINDS`.
        split: whose handwriting.
        clips: footage; default the bundled clips of the test split.

    Raises:
        ValueError: a number is too small, or a kind or split is unknown.
        ImportError: scikit-learn is missing.
    """
    check_numbers(kinds, QUESTION_KINDS, frames=(frames, 6), videos=(videos, 1), questions=(questions, 1))
    clips = bundled_clips() if clips is None else clips
    result = []
    for index in range(videos):
        video, rng = draw(index, frames, seed, split)
        rendered = [render_scene(scene, n, clips) for scene, n in zip(video.scenes, video.lengths, strict=True)]
        asked = sample_questions(rng, video, questions, kinds)
        result.append(needle_video(f"needle-{seed}-{frames}-{index}", video, asked, rendered))
    return result


def check_numbers(kinds: Sequence[str], known: Sequence[str], **numbers: tuple[int, int]) -> None:
    """Refuse numbers that are smaller than the least that follows each, and kinds of questions that are not known."""
    for name, (value, least) in numbers.items():
        if value < least:
            raise ArgumentError(f"{name} must be at least {least}, got {value}.")
    if not kinds or not set(kinds) <= set(known):
        raise ArgumentError(f"kinds must be some of {', '.join(known)}, got {', '.join(kinds) or 'none'}.")


def needle_video(name: str, video: Video, asked: Sequence[Question], rendered: Sequence[RenderedScene]) -> NeedleVideo:
    """A described video as it is shown, with its questions."""
    return NeedleVideo(
        id=name,
        footage=video.scenes[0].footage,
        questions=tuple(NeedleQuestion(q.text, q.answer, q.kind) for q in asked),
        frames=np.concatenate([item.frames for item in rendered]),
    )
