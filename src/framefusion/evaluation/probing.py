"""Prompts for a probe from a data set: questions without their answers, each video encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefusion.asking.encodings import collate, prompts
from framefusion.asking.loading import LoadedModel
from framefusion.asking.media import Media, read_media
from framefusion.asking.probe import Probed, probe
from framefusion.asking.video import VideoError
from framefusion.assets import DEMO_VIDEO, REAL_VIDEO
from framefusion.evaluation.data import DataError, Dataset, Question, WithPrompts, spread
from framefusion.progress import Progress, Silent

PROMPTS = 8
"""How many questions a probe asks unless said otherwise."""

GENERIC = (
    "What happens in this video? Answer in one word.",
    "What is shown at the beginning of the video? Answer in one word.",
    "What is shown at the end of the video? Answer in one word.",
    "Which colour is seen most? Answer in one word.",
    "How many different scenes are there? Answer with a number.",
    "Where does this take place? Answer in one word.",
)
"""Questions that any video has an answer to; short ones, so that their first token depends on what is seen."""


@dataclass(frozen=True)
class Demo:
    """The bundled videos with :data:`GENERIC` questions and no labels, for models of which nothing else is known.

    Attributes:
        name: of the data set.
    """

    name: str = "demo"

    def questions(self, frames: int) -> list[Question]:
        return [
            Question(f"{path.stem}/{number}", path.stem, text, None)
            for path in (DEMO_VIDEO, REAL_VIDEO)
            for number, text in enumerate(GENERIC)
        ]

    def video(self, video: str, frames: int, shown: int) -> Media:
        path = next((path for path in (DEMO_VIDEO, REAL_VIDEO) if path.stem == video), Path(video))
        try:
            return read_media(str(path), frames=shown)
        except VideoError as error:
            raise DataError(str(error)) from error


def chosen(questions: Sequence[Question], count: int) -> list[Question]:
    """Questions to probe with, spread evenly over the videos: one of each while there are more videos than questions.

    Args:
        questions: those of one video follow each other.
        count: how many; fewer if there are no more.
    """
    by_video: dict[str, list[Question]] = {}
    for question in questions:
        by_video.setdefault(question.video, []).append(question)
    videos = list(by_video.values())
    # One of each video in turn, another one than of the video before, so that kinds of questions take turns.
    rounds = max(map(len, videos), default=0)
    order = [
        asked[(number + turn) % len(asked)]
        for turn in range(rounds)
        for number, asked in enumerate(videos)
        if turn < len(asked)
    ]
    if count >= len(videos):
        return order[:count]
    return [order[place] for place in spread(len(videos), count)]


def probe_prompts(
    loaded: LoadedModel, data: Dataset, frames: int, questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """The arguments of ``generate()`` for each question.

    Raises:
        DataError: a video cannot be read.
        AskError: the processor refuses a video.
    """
    tokenizer = loaded.processor.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    made: dict[str, dict[str, Any]] = {}
    for video in dict.fromkeys(question.video for question in questions):
        asked = [question for question in questions if question.video == video]
        texts = [question.text for question in asked]
        if isinstance(data, WithPrompts):
            found = data.prompts(loaded, video, frames, spread(frames, frames), False, texts)
        else:
            found = prompts(loaded.model, loaded.processor, data.video(video, frames, frames), texts)
        made.update((question.id, collate([prompt], pad)) for question, prompt in zip(asked, found, strict=True))
    return [{**made[question.id], "pad_token_id": pad} for question in questions]


def probe_data(
    loaded: LoadedModel,
    data: Dataset,
    frames: int,
    questions: Sequence[Question],
    cost: float,
    progress: Progress | None = None,
) -> Probed:
    """:func:`framefusion.asking.probe.probe` with questions of a data set, whose labels are not looked at.

    Raises:
        ValueError: see :func:`~framefusion.asking.probe.probe`.
        DataError, AskError: see :func:`probe_prompts`.
    """
    shown = progress or Silent()
    shown.step("Preprocessing")
    asked = probe_prompts(loaded, data, frames, questions)
    shown.step("Probing", len(asked))
    return probe(loaded.model, asked, cost, progress=lambda step: shown.advance(1))
