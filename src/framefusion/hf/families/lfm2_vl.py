"""LFM2-VL: one run of tokens an image, or one for each of its tiles; a video is put in the prompt as images."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import torch

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.hf.families.frames import FrameLabels
from framefusion.reduction.layout import Span, VisualItem, VisualLayout, runs

_LABELS = FrameLabels(shortest=5, number=6, repeats=True, tail=2)
"""Words with a number or time among them, and what opens an image."""
_MARKER = 1
"""Tokens between two tiles of an image."""

Size = tuple[int, int]


class Lfm2VL(Family):
    """The processor knows images only, so the prompt tells which are the frames of a video: two or more of one size
    behind labels that differ in a number alone, see :class:`~framefusion.hf.families.frames.FrameLabels`. An image that
    was cut is one item of all its tiles and its thumbnail, in one row.

    ``generate()`` drops the sizes; an image then counts as one row.
    """

    name = "LFM2-VL"
    model_classes = ("Lfm2VlForConditionalGeneration", "Lfm2VlModel")
    no_tower = "its tower pads pictures of sizes of their own to one number of patches"
    frames_as_images = True
    one_view = MappingProxyType({"do_image_splitting": False})
    projector = ("multi_modal_projector",)
    placeholder = "image token; one run per frame, labels between; one run per tile of an image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        views = _views(call, config.downsample_factor)
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            found = runs(row == config.image_token_id) if call.has("image") else []
            sizes = {run: _size(run, views, f"input_ids[{b}]") for run in found}
            pictures = _pictures(found)
            spans = {(picture[0][0], picture[-1][1]): picture for picture in pictures}
            groups = _LABELS.group(row.tolist(), list(spans))
            layouts.append(layout_of([_item([spans[span] for span in group], sizes) for group in groups]))
        return layouts


def _views(call: Call, factor: int) -> Iterator[Size]:
    """Rows and columns of tokens of each tile, thumbnail and whole image of the batch, in order."""
    shapes = call.arguments.get("spatial_shapes")
    if shapes is None:
        return ((1, size) for size in call.encoded_sizes("image") or [])
    return ((h // factor, w // factor) for h, w in shapes.tolist())


def _size(run: Span, views: Iterator[Size], where: str) -> Size:
    """Rows and columns of a run; several views without markers between are one row."""
    tokens, seen, taken = run[1] - run[0], 0, []
    while seen < tokens:
        taken.append(next(views, (0, 0)))
        seen += taken[-1][0] * taken[-1][1]
        if seen > tokens or not all(taken[-1]):
            raise ArgumentError(
                f"{where} has a run of {tokens} image tokens, which does not match the next images or tiles; pass the "
                "inputs as the processor makes them, the whole prompt at once."
            )
    return taken[0] if len(taken) == 1 else (1, tokens)


def _pictures(found: list[Span]) -> list[list[Span]]:
    """The runs of each image: one, or its tiles and thumbnail."""
    pictures: list[list[Span]] = []
    for run in found:
        if pictures and run[0] - pictures[-1][-1][1] == _MARKER:
            pictures[-1].append(run)
        else:
            pictures.append([run])
    return pictures


def _item(group: list[list[Span]], sizes: dict[Span, Size]) -> VisualItem:
    columns = torch.cat([torch.arange(*run) for picture in group for run in picture])
    size = sizes[group[0][0]] if len(group[0]) == 1 else (1, len(columns) // len(group))
    return VisualItem("video" if len(group) > 1 else "image", (len(group), *size), columns)
