"""SmolVLM: one run of tokens a frame or tile, each behind a marker; videos and images share one placeholder."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import torch

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.hf.families.frames import FrameLabels, item_of
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import Span, VisualItem, VisualLayout, runs

_LABELS = FrameLabels(shortest=8, number=6, repeats=True)
"""``Frame from``, minutes and seconds, a colon and the two tokens that open a frame."""

_TILE_GAP = 4
"""Tokens at most between the tiles of one image: newlines and the two tokens that open the next."""


class SmolVLM(Family):
    """The processor puts videos among the images, so only the labels tell them apart: two or more whole views are the
    frames of one video when nothing but "Frame from 00:00:", "Frame from 00:01:", … introduces them, see
    :class:`~framefusion.hf.families.frames.FrameLabels`. An image that was split is one item: its tiles, which lie
    close together behind markers of their own, and the view of the whole that ends them.

    Beside images the processor loses the pixels of one kind; the frames then go in as images.
    """

    name = "SmolVLM"
    model_classes: tuple[str, ...] = ("SmolVLMForConditionalGeneration", "SmolVLMModel")
    mixes = False
    frames_as_images = True
    projector = ("connector",)
    one_view = MappingProxyType({"do_image_splitting": False})
    placeholder = "image token; one run per frame, labels between; one run per tile of an image"
    verified = "masked oracle on a random-weight model"
    tower = FrameTower()

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        rows = call.input_ids.cpu()
        found = [runs(row == model.config.image_token_id) if call.has("image") else [] for row in rows]
        lengths = {end - first for mine in found for first, end in mine}
        side = math.isqrt(max(lengths, default=1))
        if lengths - {side**2}:
            raise ArgumentError(
                f"input_ids has runs of {sorted(lengths)} image tokens, but every frame or tile has the same square "
                "number; pass the inputs as the processor makes them, the whole prompt at once."
            )
        return [layout_of(_items(row.tolist(), mine, side)) for row, mine in zip(rows, found, strict=True)]


def _items(row: list[int], found: list[Span], side: int) -> list[VisualItem]:
    items: list[VisualItem] = []
    # The last run of a sample is a whole view, whatever comes before; tiles have other markers.
    whole = row[found[-1][0] - 1] if found else None
    tiles: list[Span] = []
    groups = _LABELS.group(row, found)
    for index, group in enumerate(groups):
        (first, end), *more = group
        tiles += group
        if not more and row[first - 1] != whole and groups[index + 1][0][0] - end <= _TILE_GAP:
            continue
        if len(tiles) == len(group):
            items.append(item_of(group, side))
        else:
            columns = torch.cat([torch.arange(*run) for run in tiles])
            items.append(VisualItem("image", (1, 1, len(columns)), columns))
        tiles = []
    return items
