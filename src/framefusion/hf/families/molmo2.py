"""Molmo2: one run of tokens a frame, with timestamps between; videos and images share one placeholder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.reduction.layout import Kind, VisualLayout

Grid = tuple[int, int, int]


class Molmo2(Family):
    """The model takes either videos or images in one call, never both, so the call tells which they are. An image is a
    small view and a large one, in rows with a token behind each: one row of all its tokens here.

    All visual tokens of a prompt attend to each other, so frames change with those behind them. Inside ``generate()``,
    which drops the grids, the features carry them.
    """

    name = "Molmo2"
    projector = ("multi_modal_projector",)
    model_classes = ("Molmo2ForConditionalGeneration", "Molmo2Model")
    no_tower = "its projector pools patches by numbers that come with the call, so that nothing tells their places"
    mixes = False
    grows = False
    looks_ahead = True
    # What ends an image's last row, and the image; one of them for a frame. Visual tokens attend to them, too.
    closing = 2
    carried: Mapping[Kind, str] = MappingProxyType({"video": "video_grids", "image": "image_grids"})
    placeholder = "image token, for videos too; one run per frame, timestamps between; one run per row of an image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        kind: Kind = "video" if call.has("video") else "image"
        grids = _grids(call, kind, self.carried[kind])
        layouts = []
        for b in range(len(call.input_ids)):
            columns = call.placeholders(b, model.config.image_patch_id)
            found = take_items(kind, columns, grids, f"input_ids[{b}]") if call.has(kind) else []
            layouts.append(layout_of(found))
        return layouts


def _grids(call: Call, kind: Kind, argument: str) -> Iterator[Grid]:
    """``(T, H, W)`` in tokens of the items of the batch."""
    known = call.grids(kind, argument) or []
    if kind == "video":
        return ((t, h, w) for t, h, w in known)
    # The rows and columns of both views.
    return ((1, 1, math.prod(views[:2]) + math.prod(views[2:])) for views in known)
