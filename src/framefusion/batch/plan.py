"""How every row of a batch is answered, and the model that does it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from framefusion.asking.ask import MAX_NEW_TOKENS, AskError, ask
from framefusion.asking.fitting import Fitting
from framefusion.asking.loading import ModelError, load
from framefusion.asking.media import Media, read_media
from framefusion.asking.provenance import describe
from framefusion.asking.sessions import Session
from framefusion.asking.together import takes_caches
from framefusion.asking.video import Video, VideoError, check_request
from framefusion.assets import usual_frames
from framefusion.batch.answering import Result
from framefusion.batch.rows import BatchError, RowError
from framefusion.checks import is_whole
from framefusion.hf import UnsupportedModelError, attach
from framefusion.hf.summary import Summary
from framefusion.reduction.plain import to_plain
from framefusion.reduction.settings import FrameFusion
from framefusion.selection import warm_up

# Of later versions of torch; an older one raises a RuntimeError like any other.
_BROKEN_DEVICE: tuple[type[Exception], ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()


_Key = tuple[tuple[str, Any], ...]
"""Some sources, with what changes with their files."""

_WHOLE = 2**20
"""Frames at once: more than a video has, so that it is reduced as a whole."""


@dataclass(frozen=True)
class Plan:
    """How every row is answered.

    Attributes:
        settings: of the reduction; default ``FrameFusion()``, a cost of 0.3.
        model: arguments of :func:`framefusion.asking.loading.load`; default the bundled checkpoint.
        frames: frames of each video; default 16 with the bundled checkpoint, else 32, unless ``fps`` is given.
        fps: frames per second of video instead.
        max_new_tokens: longest answer, in tokens. Default 64.
        share: whether rows about one video that follow each other share its prefill (default), which changes no answer;
            not where the settings go by the question before layer 0, or the model is configured to make another cache
            than a DynamicCache.

    Raises:
        BatchError: a number is out of range, or ``frames`` and ``fps`` are both given.
    """

    settings: FrameFusion = field(default_factory=FrameFusion)
    model: Mapping[str, Any] = field(default_factory=dict)
    frames: int | None = None
    fps: float | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    share: bool = True

    def __post_init__(self) -> None:
        try:
            check_request(self.frames, self.fps)
        except VideoError as error:
            raise BatchError(str(error)) from error
        count = self.max_new_tokens
        if not is_whole(count) or count < 1:
            raise BatchError(f"max_new_tokens must be a whole number, at least 1, got {count!r}")
        # NumPy's whole numbers are not JSON's.
        object.__setattr__(self, "max_new_tokens", int(count))
        if self.frames is None and self.fps is None:
            usual = usual_frames(self.model.get("model"))
            object.__setattr__(self, "frames", usual)

    def identity(self) -> dict[str, Any]:
        """What must stay the same in one file of results, as JSON values."""
        return {
            "settings": to_plain(self.settings),
            "frames": self.frames,
            "fps": self.fps,
            "max_new_tokens": self.max_new_tokens,
        }


class ModelAnswerer:
    """Loads the model of a plan and answers with it.

    Raises:
        BatchError: the model cannot be loaded, or cannot follow the settings.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        try:
            self.loaded = load(**plan.model)
            # What no row could do ends the batch before the first one; all rows have the same stages.
            with attach(self.loaded.model, plan.settings) as run:
                self.settings = run.settings
                self._shares = plan.share and takes_caches(self.loaded.model) and run.fork() > 0
        except (ModelError, UnsupportedModelError, ValueError) as error:
            raise BatchError(str(error)) from error
        self._fit = Fitting.of(self.loaded.model, self.loaded.processor)
        warm_up(self.loaded.model.dtype, self.loaded.model.device)
        self.description = describe(self.loaded)
        self._shown: _Shown | None = None

    def prepare(self, media: Sequence[str]) -> _Read:
        """The frames of some media, at the size that the processor makes of them, and how their files were before."""
        key = _key(media)
        frames, fps = self.plan.frames, self.plan.fps
        return _Read(key, [read_media(source, frames=frames, fps=fps, fit=self._fit) for source in media])

    def answer(self, media: Sequence[str], question: str, prepared: Callable[[], _Read] | None = None) -> Result:
        """One row; seconds are from its beginning to the text, without what was prepared meanwhile."""
        begin = time.perf_counter()

        def read() -> Sequence[Media]:
            ready = None if prepared is None else prepared()
            # A file that has changed since is read as it is now.
            return ready.media if ready is not None and ready.key == _key(media) else self.prepare(media).media

        try:
            answered = self._shared(media, question, read) if self._shares else self._afresh(read(), question)
        except (VideoError, AskError) as error:
            if isinstance(error.__cause__, _BROKEN_DEVICE):
                # Every further row would fail, and pass for a bad one.
                raise BatchError(f"the device failed: {error.__cause__}") from error
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            raise RowError(str(error)) from error
        except _BROKEN_DEVICE as error:
            raise BatchError(f"the device failed: {error}") from error
        warnings = [
            f"{video.path.name}: {video.warning}"
            for video in answered.media
            if isinstance(video, Video) and video.warning
        ]
        summary = answered.summary
        return {
            "answer": answered.text,
            "tokens_before": summary.visual_tokens_before,
            "tokens_after": summary.visual_tokens_after,
            "mean_share": round(summary.mean_share, 4),
            **({} if summary.tower_share is None else {"tower_share": round(summary.tower_share, 4)}),
            "seconds": round(time.perf_counter() - begin, 3),
            **({"warning": "; ".join(warnings)} if warnings else {}),
        }

    def _afresh(self, shown: Sequence[Media], question: str) -> _Answered:
        answer = ask(
            shown,
            question,
            model=self.loaded.model,
            processor=self.loaded.processor,
            settings=self.settings,
            max_new_tokens=self.plan.max_new_tokens,
        )
        return _Answered(answer.text, answer.summary, shown)

    def _shared(self, media: Sequence[str], question: str, read: Callable[[], Sequence[Media]]) -> _Answered:
        """The answer of a session that has been shown the media; a new one unless the last row was about them too."""
        key = _key(media)
        if self._shown is None or self._shown.key != key:
            # The last one's memory is free before the next one is shown.
            self._shown = None
            talk = Session(
                self.loaded.model,
                self.loaded.processor,
                self.settings,
                chunk=_WHOLE,
                max_new_tokens=self.plan.max_new_tokens,
            )
            shown = read()
            for medium in shown:
                talk.add(medium)
            self._shown = _Shown(key, talk, shown)
        # A copy, so that no row leaves anything behind.
        reply = self._shown.session.fork().ask(question, history=False)
        return _Answered(reply.text, reply.summary, self._shown.media)


class _Read(NamedTuple):
    """Media in memory, and how their files were before they were read."""

    key: _Key
    media: Sequence[Media]


class _Answered(NamedTuple):
    text: str
    summary: Summary
    media: Sequence[Media]


class _Shown(NamedTuple):
    """What a session was shown, and how the files were then."""

    key: _Key
    session: Session
    media: Sequence[Media]


def _key(media: Sequence[str]) -> _Key:
    return tuple((source, _state_of(source)) for source in media)


def _state_of(source: str) -> tuple[int, int] | None:
    """What changes with a file; None of an address."""
    try:
        found = os.stat(source)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
