"""What a session is at one moment, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field

from framefusion.asking.sessions.shown import Item
from framefusion.hf.prefix import Prefix
from framefusion.hf.summary import Summary
from framefusion.hf.timing import Times


@dataclass(frozen=True)
class Reply:
    """An answer of a session.

    Attributes:
        text: the answer.
        question: as asked.
        seconds_to_first_token: from the question to the first new token.
        seconds_total: from the question to the last.
        new_tokens: number of generated tokens.
        prefilled: tokens of text that were prefilled for this question.
        summary: tokens, FLOPs and cache bytes, as if it had been asked afresh.
        times: seconds of the parts, as of :class:`~framefusion.asking.ask.Answer`: ``processor``, ``first_token`` and
            ``per_token``; where the session is timed those inside the model too.
    """

    text: str
    question: str
    seconds_to_first_token: float
    seconds_total: float
    new_tokens: int
    prefilled: int
    summary: Summary
    times: Times = field(default_factory=Times)


@dataclass(frozen=True)
class SessionSummary:
    """What a session holds.

    Attributes:
        items: name and frames of each video and photograph.
        frames: in all.
        visual_tokens: that the model was shown, in all.
        held: visual tokens that are there where the prefix ends.
        forgotten: visual tokens that had been kept and left to make room.
        nbytes: that keys, values and hidden states take.
        questions: that were asked.
        seconds_adding: spent on what was shown.
        seconds_asking: spent on questions.
        tower_share: share of its work on the videos that the vision tower did, over all parts so far; None where
            it encodes everything.
        times_adding: seconds of the parts of ``seconds_adding``: ``decode``, as far as anything waited for it, and
            ``processor``; where the session is timed ``tower``, ``projector``, ``prefill`` and ``other`` too. None
            where nobody measured, as before a session was restored.
        times_asking: those of the last question, as of :class:`Reply`; None before one.
    """

    items: tuple[tuple[str, int], ...]
    frames: int
    visual_tokens: int
    held: int
    forgotten: int
    nbytes: int
    questions: int
    seconds_adding: float
    seconds_asking: float
    tower_share: float | None = None
    times_adding: Times = field(default_factory=Times)
    times_asking: Times | None = None

    def __str__(self) -> str:
        shown = ", ".join(f"{name} ({frames} frames)" if frames > 1 else name for name, frames in self.items)
        forgotten = f", {self.forgotten} forgotten" if self.forgotten else ""
        tower = "" if self.tower_share is None else f", the tower did {self.tower_share:.0%} of its work"
        return (
            f"{shown or 'nothing shown'}: {self.held} of {self.visual_tokens} visual tokens held{forgotten}{tower}, "
            f"{self.nbytes / 2**20:.1f} MiB; {self.questions} question{'' if self.questions == 1 else 's'}"
        )


@dataclass(frozen=True)
class Held:
    """What a session is at one moment. Replaced, never changed, so that what fails leaves it as it was."""

    prefix: Prefix | None = None
    items: tuple[Item, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    visual_tokens: int = 0
    forgotten: int = 0
    questions: int = 0
    adding: float = field(default=0.0)
    asking: float = field(default=0.0)
    times_adding: Times = field(default_factory=Times)
    times_asking: Times | None = None
    units: int = 0
    encoded: int = 0
    """Units of the videos in each block of the vision tower, and those that ran; 0 where it encodes everything."""

    @property
    def tower_share(self) -> float | None:
        """Share of the units that the tower encoded."""
        return self.encoded / self.units if self.units else None
