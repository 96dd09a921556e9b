"""Which questions are answered at once. That depends on the questions and the model alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from framefusion.asking.encodings import Prompt
from framefusion.asking.together import beginning, fitting
from framefusion.evaluation.data import Question

Pair = tuple[Question, Prompt]


@dataclass(frozen=True)
class Asked:
    """The questions about one video that have choices, or those that have none.

    Attributes:
        video: its id.
        kind: equal for questions that fit into one batch.
        pairs: the questions with their prompts.
    """

    video: str
    kind: tuple[Any, ...]
    pairs: list[Pair]

    @property
    def prompts(self) -> list[Prompt]:
        """Of the questions."""
        return [prompt for _, prompt in self.pairs]


@dataclass(frozen=True)
class Batch:
    """Questions that are answered at once.

    Attributes:
        pairs: the questions with their prompts.
        video: that all of them are about, where they share what is prefilled of it.
        end: tokens that they share; None where every prompt is prefilled as a whole.
    """

    pairs: list[Pair]
    video: str | None = None
    end: int | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """Of the questions."""
        return [prompt for _, prompt in self.pairs]


def batches(model: Any, asked: Sequence[Asked], most: int, sharing: bool) -> list[Batch]:
    """Questions in batches of prompts of nearly one length: those of one video where they share what is prefilled of
    it, others with those of other videos.

    Args:
        model: that answers.
        asked: the questions.
        most: questions of a batch.
        sharing: whether questions about one video share what they can.
    """
    of_video: dict[str, list[Prompt]] = {}
    for own in asked:
        of_video.setdefault(own.video, []).extend(own.prompts)
    # A single question is better off beside those about other videos.
    ends = {
        video: beginning(model, prompts) if sharing and len(prompts) > 1 else None
        for video, prompts in of_video.items()
    }
    made: list[Batch] = []
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for own in asked:
        end = ends[own.video]
        if end is None:
            groups.setdefault(own.kind, []).extend(own.pairs)
            continue
        chosen = fitting(model, own.prompts, most)
        made += [Batch([own.pairs[i] for i in positions], own.video, end) for positions in chosen]
    for group in groups.values():
        group.sort(key=lambda pair: pair[1].length)
        made += [Batch(group[first : first + most]) for first in range(0, len(group), most)]
    return made
