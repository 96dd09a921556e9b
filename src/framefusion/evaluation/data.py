"""What an evaluation asks: questions about videos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from framefusion.errors import FrameFusionError
from framefusion.media import Media


class DataError(FrameFusionError, ValueError):
    """A data set that cannot be used. The text is one sentence that says why."""


@dataclass(frozen=True)
class Question:
    """One question about one video.

    Attributes:
        id: unique within the data set.
        video: id of the video, by which :meth:`Dataset.video` knows it; intervals resample whole videos.
        text: as asked.
        answer: the right answer; None when unknown, which scores agreement with the full-token answer.
        kind: the type of the question; accuracies are also given by kind.
        tags: further groups, such as ``"static"`` or ``"fast"`` footage.
    """

    id: str
    video: str
    text: str
    answer: str | None
    kind: str = "question"
    tags: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes with everything that an answer or its score depends on, apart from the frames."""
        return hashlib.sha256(repr((self.id, self.video, self.text, self.answer)).encode()).hexdigest()[:12]


class Dataset(Protocol):
    """Questions and the frames they are about. Picklable: every process opens its own."""

    @property
    def name(self) -> str:
        """What was asked, for tables and for recognising a run: without the number of videos."""

    def questions(self, frames: int) -> list[Question]:
        """All questions at ``frames`` frames a video; the questions of one video follow each other.

        Raises:
            DataError: the data set cannot be used.
        """

    def video(self, video: str, frames: int, shown: int) -> Media:
        """The video, or photograph, of questions asked at ``frames`` frames.

        Args:
            video: its id.
            frames: as given to :meth:`questions`.
            shown: frames to return, spread evenly; fewer than ``frames`` for the control that shows fewer.

        Raises:
            DataError: it cannot be read.
        """
