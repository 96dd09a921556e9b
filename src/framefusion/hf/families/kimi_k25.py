"""Kimi-K2.5 and K2.6: one run of tokens for every four frames, whose patches are averaged, with timestamps between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.hf.families.frames import FrameLabels
from framefusion.reduction.layout import Kind, Span, VisualItem, VisualLayout, runs

_LABELS = FrameLabels(shortest=4, number=11, repeats=False)
"""``00:00:02.000``, what opens a video, ``video`` and what opens its content."""


class KimiK25(Family):
    """The model gets every chunk of frames as a video of its own, so the labels tell which belong together: runs of one
    length that nothing but times introduces, see :class:`~framefusion.hf.families.frames.FrameLabels`. A chunk is one
    frame of the layout.

    ``generate()`` drops the grids; a chunk or image then counts as one row.
    """

    name = "Kimi-K2.5"
    model_classes = ("Kimi_K25ForConditionalGeneration", "Kimi_K25Model")
    no_tower = "its tower averages the frames of each chunk, so that a patch has no frame of its own behind"
    needs_names: frozenset[Kind] = frozenset({"video"})
    projector = ("mm_projector",)
    placeholder = "video or image token; one run per four frames, timestamps between; one run per image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        images, chunks = (_grids(call, kind, config.vision_config.merge_kernel_size) for kind in ("image", "video"))
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items: list[VisualItem] = []
            if call.has("image"):
                items += take_items("image", call.placeholders(b, config.image_token_id), images, f"input_ids[{b}]")
            found = runs(row == config.video_token_id) if call.has("video") else []
            sizes = [_size(run, next(chunks, None), f"input_ids[{b}]") for run in found]
            for group in _LABELS.group(row.tolist(), found):
                columns = torch.cat([torch.arange(*run) for run in group])
                items.append(VisualItem("video", (len(group), *sizes[found.index(group[0])]), columns))
            layouts.append(layout_of(items))
        return layouts


def _grids(call: Call, kind: str, merge: Any) -> Iterator[tuple[int, int, int]]:
    """``(1, H, W)`` in tokens of each image or chunk of the batch, in order."""
    grids = call.arguments.get(f"{kind}_grid_thw")
    if grids is None:
        return ((1, 1, size) for size in call.encoded_sizes(kind) or [])
    return ((1, h // merge[0], w // merge[1]) for _, h, w in grids.tolist())


def _size(run: Span, grid: tuple[int, int, int] | None, where: str) -> tuple[int, int]:
    tokens = run[1] - run[0]
    if grid is None or grid[1] * grid[2] != tokens:
        expected = "there is none" if grid is None else f"it has {grid[1]}×{grid[2]}"
        raise ArgumentError(
            f"{where} has a run of {tokens} video tokens, which does not match the next chunk of frames ({expected}); "
            "pass the inputs as the processor makes them, the whole prompt at once."
        )
    return grid[1:]
