"""Ask a question about videos and photographs with a share of their visual tokens: generation, timing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.generation.streamers import TextStreamer

from framefusion.asking.answers import Answer, Generation
from framefusion.asking.decoding.stills import upright_rgb
from framefusion.asking.failures import failures
from framefusion.asking.fitting import Fitting, Sized
from framefusion.asking.frames import frames_of
from framefusion.asking.loading import LoadedModel, ready
from framefusion.asking.media import Media, check_source, read_media
from framefusion.asking.prompts import AskError, check_seen, model_inputs, prompt_inputs, turn_inputs
from framefusion.asking.provenance import provenance
from framefusion.asking.video import FitFrames, Video, check_request
from framefusion.assets import usual_frames
from framefusion.checks import is_whole
from framefusion.hf import UnsupportedModelError, attach
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

Given = Media | np.ndarray | str | os.PathLike[str]
"""A video, a photograph, or where to read one."""

Keep = float | Mapping[int, float]
"""What ``FrameFusion(keep=…)`` takes for one sample."""

_SINGLE = (Video, Image.Image, str, os.PathLike)

INSPECT_PROMPT = "Describe the video."
"""What :func:`inspect` asks, so that the attention to the video has a query."""

MAX_NEW_TOKENS = 64
"""Longest answer, in tokens, unless said otherwise."""

_SINGLE_RUN = "one run, the model not warmed up; vision encoder, prefill and reduction"
_ROUNDS, _ENOUGH_SECONDS = 5, 2.0
_FEW_ROUNDS, _MOST_SECONDS = 3, 15.0
"""So that one slow round, as the first one may be, is not the answer."""


def ask(
    media: Given | Sequence[Given],
    question: str,
    *,
    model: Any = None,
    processor: Any = None,
    settings: FrameFusion | None = None,
    cost: float | None = None,
    keep: Keep | None = None,
    frames: int | None = None,
    fps: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    compare: bool = False,
    decode_seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
    **loading: Any,
) -> Answer:
    """Answer a question about videos and photographs with greedy decoding on a share of their visual tokens::

        print(framefusion.ask("street.mp4", "which large thing came after the red circle?", cost=0.2))

    A model that is named is loaded for this answer alone, nothing is kept; for several answers load it once, with
    :func:`framefusion.load`, or hold what it was shown in a :func:`framefusion.session`. Photographs are reduced as
    videos are, unless the settings say ``images=False``.

    Args:
        media: a file or address, a :class:`~framefusion.asking.video.Video`, frames ``(T, H, W, 3)`` uint8, one second
            apart, or a PIL image; or a list of these, in the order in which the model is to see them.
        question: what to ask.
        model: what :func:`framefusion.load` returned; a supported Hugging Face model, with ``processor``, which is
            unchanged afterwards; or a directory, a hub id or the name of a bundled checkpoint, which is loaded. Default
            the small bundled one.
        processor: of a Hugging Face model that is given.
        settings: what to keep; default ``FrameFusion()``, a cost of 0.3.
        cost: instead of settings: ``FrameFusion(cost=cost)``.
        keep: likewise, ``FrameFusion(keep=keep)``.
        frames: of each video that is read here, as for :func:`~framefusion.asking.video.read_video`. Default 16 with
            the small bundled model, 32 with others. Frames of more than 1 GiB are kept at the size that the processor
            makes of them, which changes nothing but the pictures of a report.
        fps: likewise, frames per second instead.
        max_new_tokens: longest answer, at least 1. Default 64.
        compare: also answer with all tokens. Both ways are warmed up first and then run in turns in this
            process: 5 rounds, 3 from 2 seconds on, fewer from 15 seconds on; the times are medians over the rounds.
        decode_seconds: what reading the media took, where that was done before; for :attr:`Answer.times`. Default:
            files are timed here, of others nothing is known.
        progress: called with a few words when a slow step begins.
        loading: for a model that is loaded here: ``dtype``, ``device``, ``attn``, ``trust_remote_code`` and
            ``tower_frames`` of :func:`framefusion.load`.

    Raises:
        AskError: an empty question; nothing to ask about; a processor without a chat template; a video or photograph
            that the processor or the model refuses, or that the model would not see; settings that this model or
            this video cannot follow (an unreachable cost: with the smallest reachable one), or given twice.
        ModelError: the model cannot be loaded, or a loaded one comes without its processor.
        UnsupportedModelError: the model is of no supported family.
        VideoError: a file cannot be read.
    """
    if not isinstance(question, str) or not question.strip():
        raise AskError("question must be a text that is not empty")
    if not is_whole(max_new_tokens) or max_new_tokens < 1:
        raise AskError(f"max_new_tokens must be a whole number, at least 1, got {max_new_tokens!r}")
    chosen, given = _settings(settings, cost, keep), _given(media, frames, fps)
    loaded = ready(model, processor, **loading)
    job = _Job(_read(given, frames, fps, loaded), question, loaded, chosen, decode_seconds, progress)
    if compare:
        return job.compare(question, max_new_tokens)
    job.progress("Answering")
    reduced = job.reduced(max_new_tokens)
    return job.answer(reduced, question, None, _SINGLE_RUN)


def inspect(
    media: Given | Sequence[Given],
    *,
    model: Any = None,
    processor: Any = None,
    settings: FrameFusion | None = None,
    cost: float | None = None,
    keep: Keep | None = None,
    frames: int | None = None,
    fps: float | None = None,
    decode_seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
    **loading: Any,
) -> Answer:
    """Reduce videos and photographs without a question: one prefill with a neutral prompt (:data:`INSPECT_PROMPT`).

    Arguments and errors are those of :func:`ask`. The answer's ``question`` is None and its ``text`` empty.
    """
    chosen, given = _settings(settings, cost, keep), _given(media, frames, fps)
    loaded = ready(model, processor, **loading)
    shown = _read(given, frames, fps, loaded)
    job = _Job(shown, INSPECT_PROMPT, loaded, chosen, decode_seconds, progress)
    job.progress("Reducing")
    reduced = job.reduced(1)
    return job.answer(reduced, None, None, _SINGLE_RUN)


def _settings(settings: FrameFusion | None, cost: float | None, keep: Keep | None) -> FrameFusion:
    if settings is None:
        return FrameFusion(cost=cost, keep=keep)
    if cost is not None or keep is not None:
        raise AskError("settings excludes cost and keep; say them in the settings: FrameFusion(cost=…)")
    return settings


class _Job:
    """Some media and one prompt, ready to be run with and without reduction."""

    def __init__(
        self,
        shown: _Shown,
        prompt: str,
        loaded: LoadedModel,
        settings: FrameFusion,
        decode_seconds: float | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.progress = progress or (lambda step: None)
        self.media, self.names = shown.media, shown.names
        self.decoding = decode_seconds if shown.seconds is None else shown.seconds
        self.loaded = loaded
        self.model = model = loaded.model
        self.processor = processor = loaded.processor
        self.settings = settings
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
            names=self.names,
            provenance=provenance(run.settings, self.loaded),
        )


def _segments(layout: VisualLayout, reduced: VisualLayout, segments: Tensor) -> Tensor:
    """The segment of every visual token, from those of the tokens that the settings reduce; -1 for the others."""
    found = torch.full((len(layout),), -1)
    found[torch.isin(layout.columns, reduced.columns)] = segments
    return found


@dataclass(frozen=True)
class _Shown:
    """What the model is shown; ``seconds`` is what reading it took, None if it was not all read here."""

    media: tuple[Media, ...]
    names: tuple[str, ...]
    seconds: float | None


def _given(media: Given | Sequence[Given], frames: int | None, fps: float | None) -> list[Given]:
    """The media one by one, refused as far as that goes before anything slow begins."""
    given: list[Given] = [media] if isinstance(media, (*_SINGLE, np.ndarray)) else list(media)
    if not given:
        raise AskError("media is empty; give a video or a photograph to ask about")
    for medium in given:
        if not isinstance(medium, _SINGLE) and not (isinstance(medium, np.ndarray) and medium.ndim == 4):
            raise AskError(
                "media must be videos, PIL images, paths or arrays of frames (T, H, W, 3), got "
                f"{type(medium).__name__}" + (f" {medium.shape}" if isinstance(medium, np.ndarray) else "")
            )
    check_request(frames, fps)
    files = [medium for medium in given if isinstance(medium, (str, os.PathLike))]
    if not files and (frames is not None or fps is not None):
        raise AskError("frames and fps are for files that are read here; what is given has its frames already")
    for file in files:
        check_source(file)
    return given


def _read(given: Sequence[Given], frames: int | None, fps: float | None, loaded: LoadedModel) -> _Shown:
    if frames is None and fps is None:
        frames = usual_frames(loaded.name)
    fitting = Fitting.of(loaded.model, loaded.processor)

    begin = time.perf_counter()
    shown = tuple(_read_one(medium, frames, fps, Sized(fitting).when_large) for medium in given)
    if any(isinstance(medium, Video) and medium.read_size is not None for medium in shown):
        # The processor is told of all of them that it need not resize.
        shown = tuple(Sized(fitting).of(own) if isinstance(own, Video) else own for own in shown)
    names = tuple(map(_name, given, shown))
    from_files = all(isinstance(medium, (str, os.PathLike)) for medium in given)
    return _Shown(shown, names, time.perf_counter() - begin if from_files else None)


def _read_one(medium: Given, frames: int | None, fps: float | None, fit: FitFrames) -> Media:
    if isinstance(medium, Video):
        return medium
    if isinstance(medium, Image.Image):
        return upright_rgb(medium)
    if isinstance(medium, np.ndarray):
        return frames_of(medium, None, 0.0)
    return read_media(medium, frames, fps, fit)


def _name(given: Given, shown: Media) -> str:
    if isinstance(shown, Video):
        return shown.path.name
    return os.path.basename(given) if isinstance(given, (str, os.PathLike)) else "photograph"


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
