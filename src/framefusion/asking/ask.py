"""Ask a question about videos and photographs with a share of their visual tokens: generation, timing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.generation.streamers import TextStreamer

from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.failures import failures
from framefusion.asking.media import Media, read_media
from framefusion.asking.prompts import AskError, check_seen, model_inputs, prompt_inputs, turn_inputs
from framefusion.asking.video import Video
from framefusion.checks import is_whole
from framefusion.hf import UnsupportedModelError, attach
from framefusion.hf.summary import Summary
from framefusion.hf.timing import Times, timed
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.settings import FrameFusion

__all__ = [
    "INSPECT_PROMPT",
    "MAX_NEW_TOKENS",
    "Answer",
    "AskError",
    "Generation",
    "ask",
    "generate_timed",
    "inspect",
    "model_inputs",
    "prompt_inputs",
    "turn_inputs",
]

Given = Media | str | os.PathLike[str]
"""A video, a photograph, or where to read one."""

INSPECT_PROMPT = "Describe the video."
"""What :func:`inspect` asks, so that the attention to the video has a query."""

MAX_NEW_TOKENS = 64
"""Longest answer, in tokens, unless said otherwise."""

_SINGLE_RUN = "one run, the model not warmed up; vision encoder, prefill and reduction"
_ROUNDS, _ENOUGH_SECONDS = 5, 2.0
_FEW_ROUNDS, _MOST_SECONDS = 3, 15.0
"""So that one slow round, as the first one may be, is not the answer."""


@dataclass(frozen=True)
class Generation:
    """One answer and how long it took.

    Attributes:
        text: the answer, without special tokens.
        seconds_to_first_token: from the call of ``generate()`` to the first new token; vision encoder,
            prefill and reduction included.
        seconds_total: from the call of ``generate()`` to its return.
        new_tokens: number of generated tokens.
        times: seconds of the parts, from the file on; only what :func:`ask` measured.
    """

    text: str
    seconds_to_first_token: float
    seconds_total: float
    new_tokens: int
    times: Times = field(default_factory=Times)

    @property
    def seconds_per_token(self) -> float | None:
        """Of every token behind the first; None with a single one."""
        further = self.new_tokens - 1
        return (self.seconds_total - self.seconds_to_first_token) / further if further > 0 else None


@dataclass(frozen=True)
class Answer:
    """The answer with reduced visual tokens, and what was kept.

    Attributes:
        text: the answer; empty from :func:`inspect`.
        question: as asked; None from :func:`inspect`.
        seconds_to_first_token: as in :class:`Generation`; the median when there are several rounds.
        seconds_total: likewise.
        new_tokens: number of generated tokens.
        summary: tokens, FLOPs and cache bytes before and after.
        stages: one entry per stage that reduced something.
        layout: where the visual tokens are and which part of which frame they show.
        segments: ``(N,)`` int64, segment of each visual token in the order of ``layout``, -1 for those of photographs
            that the settings leave as they are; None when no stage segmented.
        settings: the settings of the reduction, with stages in the place of ``"auto"``.
        times: seconds of the parts, from the file on.
        full: the answer with all visual tokens, when compared.
        timing: how the seconds were measured, in words.
        media: the videos and photographs that were shown to the model, in order.
    """

    text: str
    question: str | None
    seconds_to_first_token: float
    seconds_total: float
    new_tokens: int
    summary: Summary
    stages: list[Any] = field(repr=False)
    layout: VisualLayout = field(repr=False)
    segments: Tensor | None = field(repr=False)
    settings: FrameFusion
    times: Times
    full: Generation | None
    timing: str
    media: tuple[Media, ...] = field(repr=False)

    @property
    def video(self) -> Video | None:
        """The first video that was shown; None if there were photographs only."""
        return next((medium for medium in self.media if isinstance(medium, Video)), None)


def ask(
    media: Given | Sequence[Given],
    question: str,
    *,
    model: Any,
    processor: Any,
    settings: FrameFusion | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    compare: bool = False,
    decode_seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Answer:
    """Answer a question about videos and photographs with greedy decoding on a share of their visual tokens.

    Photographs are reduced as videos are, unless the settings say ``images=False``.

    Args:
        media: a :class:`~framefusion.asking.video.Video`, a PIL image, or a file, of which 8 frames are read if it
            is a video; or a list of these, in the order in which the model is to see them.
        question: what to ask.
        model: a supported Hugging Face model; it is unchanged afterwards.
        processor: its processor.
        settings: what to keep; default ``FrameFusion()``, a cost of 0.3.
        max_new_tokens: longest answer, at least 1. Default 64.
        compare: also answer with all tokens. Both ways are warmed up first and then run in turns in this
            process: 5 rounds, 3 from 2 seconds on, fewer from 15 seconds on; the times are medians over the rounds.
        decode_seconds: what reading the media took, where that was done before; for :attr:`Answer.times`. Default:
            files are timed here, of others nothing is known.
        progress: called with a few words when a slow step begins.

    Raises:
        AskError: an empty question; nothing to ask about; a processor without a chat template; a video or photograph
            that the processor or the model refuses, or that the model would not see; or settings that this model or
            this video cannot follow (an unreachable cost: with the smallest reachable one).
        UnsupportedModelError: the model is of no supported family.
        VideoError: a file cannot be read.
    """
    if not isinstance(question, str) or not question.strip():
        raise AskError("question must be a text that is not empty")
    if not is_whole(max_new_tokens) or max_new_tokens < 1:
        raise AskError(f"max_new_tokens must be a whole number, at least 1, got {max_new_tokens!r}")
    job = _Job(media, question, model, processor, settings, decode_seconds, progress)
    if compare:
        return job.compare(question, max_new_tokens)
    job.progress("Answering")
    reduced = job.reduced(max_new_tokens)
    return job.answer(reduced, question, None, _SINGLE_RUN)


def inspect(
    media: Given | Sequence[Given],
    *,
    model: Any,
    processor: Any,
    settings: FrameFusion | None = None,
    decode_seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Answer:
    """Reduce videos and photographs without a question: one prefill with a neutral prompt (:data:`INSPECT_PROMPT`).

    Arguments and errors are those of :func:`ask`. The answer's ``question`` is None and its ``text`` empty.
    """
    job = _Job(media, INSPECT_PROMPT, model, processor, settings, decode_seconds, progress)
    job.progress("Reducing")
    reduced = job.reduced(1)
    return job.answer(reduced, None, None, _SINGLE_RUN)


class _Job:
    """Some media and one prompt, ready to be run with and without reduction."""

    def __init__(
        self,
        media: Given | Sequence[Given],
        prompt: str,
        model: Any,
        processor: Any,
        settings: FrameFusion | None,
        decode_seconds: float | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.progress = progress or (lambda step: None)
        begin = time.perf_counter()
        self.media, from_files = _read(media)
        self.decoding = time.perf_counter() - begin if from_files else decode_seconds
        self.model = model
        self.processor = processor
        self.settings = settings if settings is not None else FrameFusion()
        self.run: Any = None
        try:
            with attach(model, self.settings):
                pass  # what this model cannot do is refused before the video is preprocessed
        except UnsupportedModelError:
            raise
        except ValueError as error:
            raise AskError(str(error)) from error
        self.progress("Preprocessing")
        with failures(model, "making the prompt"):
            begin = time.perf_counter()
            self.inputs = model_inputs(self.media, prompt, model, processor)
            self.processing = time.perf_counter() - begin
            # Inside ``generate()`` the sizes of frames and images are lost; the prompt still has them.
            self.layout = check_seen(model, self.inputs, len(self.media), type(processor).__name__)

    def full(self, max_new_tokens: int) -> Generation:
        with failures(self.model, "answering"), timed(self.model) as clock:
            return self.told(generate_timed(self.model, self.processor, self.inputs, max_new_tokens), clock.times)

    def reduced(self, max_new_tokens: int) -> Generation:
        with failures(self.model, "answering"), attach(self.model, self.settings, timed=True) as self.run:
            return self.told(generate_timed(self.model, self.processor, self.inputs, max_new_tokens), self.run.times)

    def told(self, made: Generation, inside: Times | None) -> Generation:
        """With the times of the parts; ``inside`` are those of the model."""
        known = replace(inside or Times(), decode=self.decoding, processor=self.processing)
        return replace(made, times=known.answered(made.seconds_to_first_token, made.seconds_per_token))

    def compare(self, question: str, max_new_tokens: int) -> Answer:
        self.progress("Warming up")
        self.full(1)
        self.reduced(1)
        rounds: list[tuple[Generation, Generation]] = []
        begin = time.perf_counter()
        while not rounds or _another(len(rounds), time.perf_counter() - begin):
            self.progress("Answering with all tokens")
            full = self.full(max_new_tokens)
            self.progress("Answering with reduced tokens")
            rounds.append((full, self.reduced(max_new_tokens)))
        count = "one run" if len(rounds) == 1 else f"median of {len(rounds)} runs"
        timing = f"{count} each in turns, after a warm-up; vision encoder, prefill and reduction"
        return self.answer(_median([r for _, r in rounds]), question, _median([f for f, _ in rounds]), timing)

    def answer(self, reduced: Generation, question: str | None, full: Generation | None, timing: str) -> Answer:
        run = self.run
        return Answer(
            text=reduced.text if question is not None else "",
            question=question,
            seconds_to_first_token=reduced.seconds_to_first_token,
            seconds_total=reduced.seconds_total,
            new_tokens=reduced.new_tokens,
            summary=run.summary(),
            stages=list(run.stages),
            layout=self.layout,
            segments=_segments(self.layout, run.layout[0], run.segments[0]) if run.segments else None,
            settings=run.settings,
            times=reduced.times,
            full=full,
            timing=timing,
            media=self.media,
        )


def _segments(layout: VisualLayout, reduced: VisualLayout, segments: Tensor) -> Tensor:
    """The segment of every visual token, from those of the tokens that the settings reduce; -1 for the others."""
    found = torch.full((len(layout),), -1)
    found[torch.isin(layout.columns, reduced.columns)] = segments
    return found


def _read(media: Given | Sequence[Given]) -> tuple[tuple[Media, ...], bool]:
    """The media, and whether all of them were read here."""
    given = [media] if isinstance(media, (Video, Image.Image, str, os.PathLike)) else list(media)
    if not given:
        raise AskError("media is empty; give a video or a photograph to ask about")
    for medium in given:
        if not isinstance(medium, (Video, Image.Image, str, os.PathLike)):
            raise AskError(f"media must be videos, PIL images or paths, got {type(medium).__name__}")
    from_files = all(isinstance(medium, (str, os.PathLike)) for medium in given)
    return tuple(_read_one(medium) for medium in given), from_files


def _read_one(medium: Given) -> Media:
    if isinstance(medium, Video):
        return medium
    if isinstance(medium, Image.Image):
        return upright_rgb(medium)
    return read_media(medium)


def _another(rounds: int, seconds: float) -> bool:
    """Whether to run both ways once more, after so many rounds that took so long."""
    enough = _ENOUGH_SECONDS if rounds >= _FEW_ROUNDS else _MOST_SECONDS
    return rounds < _ROUNDS and seconds < enough


def _median(runs: list[Generation]) -> Generation:
    return Generation(
        text=runs[-1].text,
        seconds_to_first_token=statistics.median(run.seconds_to_first_token for run in runs),
        seconds_total=statistics.median(run.seconds_total for run in runs),
        new_tokens=runs[-1].new_tokens,
        times=Times.median([run.times for run in runs]),
    )


def generate_timed(
    model: Any,
    processor: Any,
    inputs: Any,
    max_new_tokens: int,
    say: Callable[[str], None] | None = None,
    read: Callable[[], float] | None = None,
) -> Generation:
    """Greedy decoding of one sample, timed; ``say`` is called with each piece of the text as it comes, and ``read``
    tells the time, by default that of the wall clock."""
    read = read or time.perf_counter
    clock = _FirstToken(processor.tokenizer, say, read)
    begin = read()
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, streamer=clock)
    end = read()
    new = output[0, inputs["input_ids"].shape[1] :]
    return Generation(
        text=processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
        seconds_to_first_token=clock.at - begin,
        seconds_total=end - begin,
        new_tokens=len(new),
    )


class _FirstToken(TextStreamer):
    """Notes when the first new token arrives; ``generate()`` sends the prompt before it."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None] | None, read: Callable[[], float]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.calls, self.say, self.read = 0, say, read
        self.at = float("nan")

    def put(self, value: Tensor) -> None:
        self.calls += 1
        if self.calls == 2:
            self.at = self.read()
        if self.say is not None:
            super().put(value)

    def end(self) -> None:
        if self.say is not None:
            super().end()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self.say is not None and text:
            self.say(text)
