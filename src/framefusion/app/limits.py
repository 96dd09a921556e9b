"""What visitors of the page may take of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from framefusion.errors import FrameFusionError


class VisitError(FrameFusionError, ValueError):
    """Something that the page refuses its visitor. The text is one sentence that says why."""


@dataclass(frozen=True)
class Limits:
    """What is refused with a sentence.

    Attributes:
        upload: bytes of a file.
        seconds: playing time of a video.
        frames: shown of a video.
        decoded: bytes of the frames of a video, or of a photograph, as pixels.
        questions: of one visit, those that follow included.
        characters: of a question.
        visits: open at a time; one is from the first question or video until the page is closed.
        idle: seconds without a question after which a visit ends and its file is deleted.
        waiting: questions that wait for their turn.
    """

    upload: int = 200 * 2**20
    seconds: float = 600.0
    frames: int = 64
    decoded: int = 2**29
    questions: int = 100
    characters: int = 1000
    visits: int = 16
    idle: float = 1800.0
    waiting: int = 32
