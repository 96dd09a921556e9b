"""What an evaluation asks: questions about videos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from framefusion.asking.media import Media
from framefusion.asking.video import FitFrames
from framefusion.errors import FrameFusionError

if TYPE_CHECKING:
    from framefusion.asking.encodings import Prompt
    from framefusion.asking.loading import LoadedModel


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
        choices: the answers that there are, as they would follow the prompt (``" wolf"``, with the space). The one
            whose first token has the largest logit is then the answer; empty generates it freely.
    """

    id: str
    video: str
    text: str
    answer: str | None
    kind: str = "question"
    tags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes with everything that an answer or its score depends on, apart from the frames."""
        known = (self.id, self.video, self.text, self.answer)
        return hashlib.sha256(repr((*known, self.choices) if self.choices else known).encode()).hexdigest()[:12]


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


@runtime_checkable
class WithFiles(Protocol):
    """A data set whose videos are files, which it reads at the size that a model's processor makes of them."""

    def fitted(self, video: str, shown: int, fit: FitFrames) -> Media:
        """What :meth:`Dataset.video` returns.

        Args:
            video: its id.
            shown: frames to return.
            fit: what resizes them.

        Raises:
            DataError: it cannot be read.
        """


@runtime_checkable
class WithScenes(Protocol):
    """A data set that knows where the scenes of its videos begin and end."""

    def scenes(self, video: str, frames: int) -> list[tuple[int, int]]:
        """The first frame of each scene of a video and the one behind its last.

        Args:
            video: its id.
            frames: as given to :meth:`Dataset.questions`.
        """


@runtime_checkable
class WithPrompts(Protocol):
    """A data set that has visual tokens instead of pictures, and makes the prompts itself."""

    def prompts(
        self, loaded: LoadedModel, video: str, frames: int, shown: Sequence[int], blank: bool, texts: Sequence[str]
    ) -> list[Prompt]:
        """The prompts of some questions about one video.

        Args:
            loaded: the model.
            video: its id.
            frames: as given to :meth:`Dataset.questions`.
            shown: positions of the frames to show, in order.
            blank: show as many frames that show nothing.
            texts: of the questions.

        Raises:
            DataError: this model cannot be asked.
        """


@runtime_checkable
class WithFloor(Protocol):
    """A data set of which a model is asked only what it can answer."""

    @property
    def least(self) -> float:
        """Accuracy with all tokens below which a kind of question is left out."""


def spread(frames: int, shown: int) -> list[int]:
    """Positions of ``shown`` of ``frames`` frames: the middle of equal intervals, as videos are decoded."""
    return [((2 * i + 1) * frames) // (2 * shown) for i in range(shown)]


def middles(scenes: Sequence[tuple[int, int]]) -> list[int]:
    """Position of the middle frame of each scene, the later one of two."""
    return [(first + end) // 2 for first, end in scenes]
