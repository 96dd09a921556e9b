"""Which image runs of a sample are the frames of one video, for processors that write frames as labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from framefusion.reduction.layout import Span, VisualItem

_BETWEEN = 2
"""Tokens between a frame and the next one's label: what closes the frame, and a newline."""


@dataclass(frozen=True)
class FrameLabels:
    """How a processor introduces each frame of a video: by the same words, but for a number or time.

    The call says nothing else about which images are frames. So two or more runs of one length are one video when
    nothing but such labels stands between them; images that a prompt numbers itself in the same way count as one,
    too, and a video of a single frame counts as an image.

    Attributes:
        shortest: tokens of the shortest label, from its first word to what opens the image.
        number: tokens that may differ between the labels of two frames, one after the other.
        repeats: whether frames may share a label, as times in whole seconds; else the label of a video's first frame
            starts the next video.
        tail: tokens at least that all labels of a video end in, behind the number: punctuation and what opens an image.
    """

    shortest: int
    number: int
    repeats: bool
    tail: int = 3

    def group(self, row: list[int], found: list[Span]) -> list[list[Span]]:
        """The runs of a sample, in order: those of one video together, every other one alone.

        Args:
            row: the ids of the sample.
            found: its runs of placeholders.
        """
        groups: list[list[Span]] = []
        before: list[int] = []
        opening: list[int] = []
        for index, (first, end) in enumerate(found):
            lead = row[found[index - 1][1] if index else 0 : first]
            label = lead[_BETWEEN:]
            goes_on = False
            if groups and label and end - first == groups[-1][-1][1] - groups[-1][-1][0]:
                if len(groups[-1]) == 1:
                    before = opening = self._end_of(before, label)
                goes_on = self._alike(before, label) and (self.repeats or label != opening)
            if goes_on:
                groups[-1].append((first, end))
            else:
                groups.append([(first, end)])
            before = label if goes_on else lead
        return groups

    def _end_of(self, lead: list[int], label: list[int]) -> list[int]:
        """The label of a video's first frame, before which stands text, too: the end that is like the next label, which
        may have a digit more."""
        ends = [lead[-length:] for length in (len(label), len(label) - 1) if length]
        return next((end for end in ends if self._alike(end, label)), ends[0])

    def _alike(self, one: list[int], other: list[int]) -> bool:
        if min(len(one), len(other)) < self.shortest:
            return False
        if one == other:
            return self.repeats
        head = _common(one, other)
        tail = _common(one[head:][::-1], other[head:][::-1])
        return head > 0 and tail >= self.tail and max(len(one), len(other)) - head - tail <= self.number


def _common(one: list[int], other: list[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def frame_labels(seconds: Sequence[float]) -> list[str]:
    """The labels of a video's frames for processors that know images only, as SmolVLM's processor writes them:
    ``"Frame from 00:07:"``, minutes and whole seconds. Every :class:`FrameLabels` recognises them.

    Args:
        seconds: when each frame is shown.
    """
    # Labels of one length: the first frame's is recognised by its distance from the image.
    width = max([2, *(len(str(int(time // 60))) for time in seconds)])
    return [f"Frame from {int(time // 60):0{width}d}:{int(time % 60):02d}:" for time in seconds]


def item_of(group: list[Span], side: int) -> VisualItem:
    """The frames of a video, each ``side × side`` tokens, or an image; an image of several tiles has no plain grid."""
    (first, end), *more = group
    if not more:
        return VisualItem.run("image", (1, side, side) if end - first == side**2 else (1, 1, end - first), first)
    columns = torch.cat([torch.arange(first, end) for first, end in group])
    return VisualItem("video", (len(group), side, side), columns)
