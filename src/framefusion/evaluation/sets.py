"""Data sets that ``--data`` knows by name. A new one is a class and a line in :data:`SETS`."""

from __future__ import annotations

from typing import Protocol

from framefusion.evaluation.data import Dataset
from framefusion.evaluation.facts import Facts
from framefusion.evaluation.photos import Photos
from framefusion.evaluation.videoneedle import VideoNeedle


class NamedSet(Protocol):
    """A class of data sets that are made by name, of a number of videos, a seed and kinds of questions."""

    @property
    def usual_videos(self) -> int:
        """How many videos unless said otherwise."""

    @property
    def known_kinds(self) -> tuple[str, ...]:
        """Kinds of questions that can be asked for."""

    @property
    def usual_model(self) -> str | None:
        """The model that answers unless said otherwise; None for the bundled one."""

    def __call__(self, videos: int, seed: int = 0, kinds: tuple[str, ...] | None = None) -> Dataset:
        """The data set.

        Args:
            videos: how many.
            seed: of the generation.
            kinds: of questions, some of ``known_kinds``; None for those that are usually asked.
        """


SETS: dict[str, NamedSet] = {"needle": VideoNeedle, "photos": Photos, "facts": Facts}
"""The data sets by name, the usual one first."""
