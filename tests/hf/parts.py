"""A video of a tiny model's prompt in parts, as its processor would lay them out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framefusion.hf.families import find, layouts_of
from tests.hf.case import Case, Video

FRAMES = 6
BEFORE, BEHIND = 3, 5
"""Words around the video."""


def whole(case: Case, frames: int = FRAMES) -> dict[str, Any]:
    """A prompt with the whole video."""
    return case.inputs([[BEFORE, (frames, *case.frame), BEHIND]])


def part(case: Case, first: int, end: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """A prompt with the frames from ``first`` to before ``end``, and the one before them; and the columns of the part.

    The words between frames are those of the whole video.
    """
    shown = max(first - 1, 0)
    inputs = {**whole(case, end - shown), **_pixels(case, shown, end)}
    (everything,), (layout,) = layouts_of(case.model, whole(case)), layouts_of(case.model, inputs)
    begin = int(layout.columns[layout.frame < first - shown][-1]) + 1 if first else 0
    stop = int(layout.columns[-1]) + 1
    if end == FRAMES:
        ids = inputs["input_ids"][0]
        stop = int((ids == ids[layout.columns[0]]).nonzero()[-1]) + 1 + find(case.model).closing
    before = int(everything.columns[everything.frame < first][-1]) + 1 if first else 0
    ids = inputs["input_ids"].clone()
    ids[0, begin:stop] = whole(case)["input_ids"][0, before : before + stop - begin]
    return {**inputs, "input_ids": ids, **case.types(ids)}, (begin, stop)


def _pixels(case: Case, first: int, end: int) -> dict[str, Any]:
    """What the processor gives for some frames of the video."""
    height, width = case.frame
    own = case.encode([Video(end - first, height, width)], [])
    if not first:
        return own
    until = case.encode([Video(end, height, width)], [])
    return {name: _tail(until[name], value) for name, value in own.items()}


def _tail(until: Any, own: Any) -> Any:
    if isinstance(own, list):
        return [_tail(u, o) for u, o in zip(until, own, strict=True)]
    if not isinstance(own, Tensor) or not own.is_floating_point() or own.ndim < 2:
        return own
    for dim, (longer, count) in enumerate(zip(until.shape, own.shape, strict=True)):
        if longer != count:
            return until.narrow(dim, longer - count, count)
    raise AssertionError(f"frames are along no dimension of {tuple(own.shape)}")


def behind(case: Case, words: Tensor, length: int) -> dict[str, Any]:
    """The arguments of ``generate()`` for a text behind a prefix of some columns, whose own ids nobody reads."""
    ids = torch.cat([torch.full((len(words), length), 10), words], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **case.types(ids)}
