"""Answers: the text, what was kept for it, and how long it took."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from framefusion.asking.media import Media
from framefusion.asking.video import Video
from framefusion.hf.summary import Summary
from framefusion.hf.timing import Times
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.settings import FrameFusion
from framefusion.showing import units

if TYPE_CHECKING:
    from framefusion.asking.report import Report

_LONGEST = 80
"""Characters of an answer in its ``repr()``."""


@dataclass(frozen=True)
class Generation:
    """One answer and how long it took.

    Attributes:
        text: the answer, without special tokens.
        seconds_to_first_token: from the call of ``generate()`` to the first new token; vision encoder,
            prefill and reduction included.
        seconds_total: from the call of ``generate()`` to its return.
        new_tokens: number of generated tokens.
        times: seconds of the parts, from the file on; only what :func:`~framefusion.asking.ask.ask` measured.
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
class Saved:
    """Shares that a reduction saved, 0 … 1; below 0 where it took more.

    Attributes:
        compute: operations up to the first token; of the decoder's prefill alone where the vision encoder cannot be
            counted.
        kv_cache: bytes of keys and values behind the prefill.
        time: seconds to the first token, from the file on; None unless compared with all tokens.
    """

    compute: float
    kv_cache: float
    time: float | None


@dataclass(frozen=True)
class Answer:
    """The answer with reduced visual tokens, and what was kept. ``str()`` is its text, ``repr()`` one line; a notebook
    shows it with its frames.

    Attributes:
        text: the answer; empty from :func:`~framefusion.asking.ask.inspect`.
        question: as asked; None from :func:`~framefusion.asking.ask.inspect`.
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
        names: of ``media``: the file's, ``"frames"`` or ``"photograph"`` without one.
        provenance: names and values that a reader needs to repeat it, in groups: model, settings, versions.
    """

    text: str
    question: str | None
    seconds_to_first_token: float
    seconds_total: float
    new_tokens: int
    summary: Summary
    stages: list[Any]
    layout: VisualLayout
    segments: Tensor | None
    settings: FrameFusion
    times: Times
    full: Generation | None
    timing: str
    media: tuple[Media, ...]
    names: tuple[str, ...]
    provenance: Mapping[str, Mapping[str, Any]]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        said = "without a question" if self.question is None else repr(_short(self.text))
        tokens = units.count(self.summary.visual_tokens_before, "visual token")
        return f"<Answer {said}, with {units.percent(self.kept)} of {tokens}>"

    @property
    def video(self) -> Video | None:
        """The first video that was shown; None if there were photographs only."""
        return next((medium for medium in self.media if isinstance(medium, Video)), None)

    @property
    def kept(self) -> float:
        """Share of the visual tokens that the decoder saw, the mean over its layers; what ``cost`` sets.
        ``summary`` has the numbers of each layer."""
        return self.summary.mean_share

    @property
    def saved(self) -> Saved:
        """What that saved."""
        summary, full = self.summary, self.full
        compute = summary.first_token_flops or (summary.flops_before, summary.flops_after)
        before = None if full is None else full.times.first_token or full.seconds_to_first_token
        now = self.times.first_token or self.seconds_to_first_token
        return Saved(
            units.saved_share(*compute),
            units.saved_share(summary.kv_bytes_before, summary.kv_bytes_after),
            None if before is None else units.saved_share(before, now),
        )

    def report(self, path: str | os.PathLike[str] | None = None) -> Report:
        """The HTML page of this answer; written to ``path`` if one is given.

        Raises:
            OSError: the file cannot be written.
        """
        from framefusion.asking.report import report_of

        return report_of(self, path)

    def _repr_html_(self) -> str:
        from framefusion.asking.report import report_data, snippet

        return snippet(report_data(self))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
