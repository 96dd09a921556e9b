"""Answers to the questions of a few videos, in every cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from framefusion.ahead import Ahead
from framefusion.asking.encodings import Prompt, prompts
from framefusion.asking.fitting import Fitting
from framefusion.asking.loading import LoadedModel
from framefusion.asking.media import Media
from framefusion.asking.together import Together, shares
from framefusion.asking.video import Video
from framefusion.errors import FrameFusionError
from framefusion.evaluation.batches import Asked, Batch, batches
from framefusion.evaluation.cells import Cell
from framefusion.evaluation.data import (
    DataError,
    Dataset,
    Question,
    WithFiles,
    WithPrompts,
    WithScenes,
    middles,
    spread,
)
from framefusion.evaluation.scoring import exact_match
from framefusion.hf import Run, attach

GREY = 128
"""Level of the frames that show nothing."""
CHUNK_BATCHES = 4
"""A chunk of videos has at least so many batches of questions; its encodings are in memory together."""

Row = dict[str, Any]
"""One answered question, as a line of the results."""


class EvaluationError(FrameFusionError, RuntimeError):
    """An evaluation that cannot go on. The text is one sentence that says why."""


@dataclass(frozen=True)
class Generating:
    """How answers are generated, always greedily.

    Attributes:
        batch: questions at a time.
        new_tokens: longest answer, in tokens.
        share: whether questions about one video share what is prefilled of it, where they may.
    """

    batch: int = 8
    new_tokens: int = 16
    share: bool = True


def chunks(questions: Sequence[Question], batch: int) -> list[list[Question]]:
    """Cut the questions between videos into chunks of at least ``CHUNK_BATCHES * batch`` questions.

    Chunks and the batches in them depend on the questions alone, so that an evaluation that was interrupted, or runs in
    several processes, pads every prompt as one that was not.
    """
    cut: list[list[Question]] = []
    for question in questions:
        if not cut or (len(cut[-1]) >= CHUNK_BATCHES * batch and question.video != cut[-1][-1].video):
            cut.append([])
        cut[-1].append(question)
    return cut


def best_choice(choices: Sequence[str], logits: Tensor, tokenizer: Any) -> str:
    """The choice whose first token has the largest logit, the first of equals.

    Args:
        choices: texts as they would follow the prompt.
        logits: ``(V,)``, of the first token of the answer.
        tokenizer: the model's.

    Returns:
        The choice without the space around it.

    Raises:
        DataError: two choices begin with the same token, so that nothing tells them apart.
    """
    firsts = [tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in choices]
    if len(set(firsts)) < len(firsts):
        double = next(choice for i, choice in enumerate(choices) if firsts[i] in firsts[:i])
        raise DataError(
            f"the choice {double.strip()!r} begins with the token of another one in this model's vocabulary; take "
            "choices that differ in their first token"
        )
    return choices[int(logits[firsts].argmax())].strip()


class Chunk:
    """Some videos of a data set, each encoded once, and their questions.

    Args:
        loaded: the model.
        data: the data set.
        frames: frames of the videos.
        questions: of these videos; those of one video follow each other.
        generating: how to answer.
    """

    def __init__(
        self, loaded: LoadedModel, data: Dataset, frames: int, questions: Sequence[Question], generating: Generating
    ) -> None:
        self.loaded, self.data, self.frames, self.generating = loaded, data, frames, generating
        self.questions = list(questions)
        self._fit = Fitting.of(loaded.model, loaded.processor)
        self._made: dict[tuple[int, bool, bool], list[Asked]] = {}
        self._batched: dict[tuple[int, bool, bool, bool], list[Batch]] = {}

    def answer(self, cells: Sequence[Cell], done: Set[tuple[str, str]] = frozenset()) -> Iterator[list[Row]]:
        """The rows of one batch after the other.

        Args:
            cells: what to answer with.
            done: ``(cell key, question id)`` of what needs no answer any more.

        Raises:
            EvaluationError: the model or a method failed; names the cell and the questions.
        """
        for cell in cells:
            if all((cell.key, question.id) in done for question in self.questions):
                continue
            if cell.settings.tower is not None:
                raise EvaluationError(
                    f"{cell.method} has tower={cell.settings.tower}, but an evaluation encodes each video once for all "
                    "methods; leave tower out."
                )
            with attach(self.loaded.model, cell.settings) as run:
                together = Together(self.loaded.model, run, self._pad)
                sharing = self.generating.share and shares(self.loaded.model, run.settings)
                for batch in self._batches(cell, sharing):
                    # A batch that was written in part is answered whole, so that its padding is the same.
                    missing = [(cell.key, question.id) not in done for question, _ in batch.pairs]
                    if any(missing):
                        rows = self._rows(cell, run, together, batch)
                        yield [row for row, wanted in zip(rows, missing, strict=True) if wanted]

    def prompts_of(self, cell: Cell) -> dict[str, Prompt]:
        """The prompts that a cell answers, by question."""
        return {question.id: prompt for video in self._asked(cell) for question, prompt in video.pairs}

    def _rows(self, cell: Cell, run: Run, together: Together, batch: Batch) -> list[Row]:
        try:
            texts = self._answers(together, batch)
        except (ValueError, RuntimeError) as error:
            asked = ", ".join(question.id for question, _ in batch.pairs)
            raise EvaluationError(f"{cell.key} failed on the questions {asked}: {error}") from error
        summary = run.summary()
        # Counted over the batch; what is averaged over cells needs no more.
        tokens = sum(summary.tokens_per_layer) / len(summary.tokens_per_layer) / len(batch.pairs)
        kv_bytes = summary.kv_bytes_after / len(batch.pairs)
        return [
            {
                "cell": cell.key,
                "question": question.id,
                "video": question.video,
                "kind": question.kind,
                "tags": list(question.tags),
                "fingerprint": question.fingerprint,
                "prediction": text,
                "correct": None if question.answer is None else exact_match(text, question.answer),
                "tokens": round(tokens, 3),
                "kv_bytes": round(kv_bytes),
            }
            for (question, _), text in zip(batch.pairs, texts, strict=True)
        ]

    def _answers(self, together: Together, batch: Batch) -> list[str]:
        """The answers of a batch: the best choice of each question, or what is generated where none has choices."""
        tokenizer = self.loaded.processor.tokenizer
        choosing = any(question.choices for question, _ in batch.pairs)
        arguments = together.arguments(batch.prompts, batch.video, batch.end)
        with torch.inference_mode():
            output = self.loaded.model.generate(
                **arguments,
                # Of choices, the prefill alone decides.
                max_new_tokens=1 if choosing else self.generating.new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=self._pad,
                output_logits=choosing,
                return_dict_in_generate=True,
            )
        new = output.sequences[:, arguments["input_ids"].shape[1] :]
        texts = [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        if not choosing:
            return texts
        return [
            best_choice(question.choices, logits, tokenizer) if question.choices else text
            for (question, _), logits, text in zip(batch.pairs, output.logits[0], texts, strict=True)
        ]

    @property
    def _pad(self) -> int:
        tokenizer = self.loaded.processor.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def _asked(self, cell: Cell) -> list[Asked]:
        """The questions of each video. Answers that are chosen and answers that are generated are no batch."""
        key = cell.shown, cell.blank, cell.scenes
        if key not in self._made:
            groups = [
                (video, choosing, [q for q in self.questions if q.video == video and bool(q.choices) is choosing])
                for video in dict.fromkeys(question.video for question in self.questions)
                for choosing in (False, True)
            ]
            found: list[Asked] = []
            # The next video is read while this one is encoded.
            with Ahead(self._video(video, cell) for video, _, asked in groups if asked) as shown:
                for video, choosing, asked in groups:
                    medium = next(shown) if asked else None
                    size, made = self._prompts(video, cell, [question.text for question in asked], medium)
                    found.append(Asked(video, (choosing, *size), list(zip(asked, made, strict=True))))
            self._made[key] = found
        return self._made[key]

    def _batches(self, cell: Cell, sharing: bool) -> list[Batch]:
        key = cell.shown, cell.blank, cell.scenes, sharing
        if key not in self._batched:
            self._batched[key] = batches(self.loaded.model, self._asked(cell), self.generating.batch, sharing)
        return self._batched[key]

    def _prompts(
        self, video: str, cell: Cell, texts: Sequence[str], shown: Media | None
    ) -> tuple[tuple[int, ...], list[Prompt]]:
        """What tells the size of a video as it is shown, and the prompts about it; ``shown`` is of :meth:`_video`."""
        if not texts:
            return (), []
        if isinstance(self.data, WithPrompts):
            frames = spread(self.frames, cell.shown)
            if cell.scenes and isinstance(self.data, WithScenes):
                frames = middles(self.data.scenes(video, self.frames))
            return (len(frames),), self.data.prompts(self.loaded, video, self.frames, frames, cell.blank, texts)
        assert shown is not None
        size = shown.frames.shape if isinstance(shown, Video) else shown.size
        return size, prompts(self.loaded.model, self.loaded.processor, shown, texts)

    def _video(self, video: str, cell: Cell) -> Media | None:
        """The video as a cell shows it; None where the data make the prompts themselves."""
        if isinstance(self.data, WithPrompts):
            return None
        if isinstance(self.data, WithFiles):
            shown = self.data.fitted(video, cell.shown, self._fit)
        else:
            shown = self.data.video(video, self.frames, cell.shown)
        if cell.scenes and isinstance(self.data, WithScenes) and isinstance(shown, Video):
            chosen = middles(self.data.scenes(video, self.frames))
            shown = replace(
                shown,
                frames=shown.frames[chosen],
                timestamps=shown.timestamps[chosen],
                indices=shown.indices[chosen],
            )
        if not cell.blank:
            return shown
        if isinstance(shown, Video):
            return replace(shown, frames=np.full_like(shown.frames, GREY))
        return Image.new("RGB", shown.size, (GREY, GREY, GREY))
