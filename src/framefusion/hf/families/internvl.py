"""InternVL: one run of tokens a frame, with labels between; videos and images share one placeholder."""

from __future__ import annotations

import math
from typing import Any

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.hf.families.frames import FrameLabels, item_of
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import VisualItem, VisualLayout, runs

_LABELS = FrameLabels(shortest=5, number=6, repeats=False)
"""``Frame``, the number, of up to six digits that may all differ, a colon, a space and what opens an image."""


class InternVL(Family):
    """The processor puts videos among the images, so only the labels tell them apart: two or more single views are
    the frames of one video when nothing but "Frame1:", "Frame2:", … introduces them, see
    :class:`~framefusion.hf.families.frames.FrameLabels`. A run of several tiles is one image.
    """

    name = "InternVL"
    model_classes = ("InternVLForConditionalGeneration", "InternVLModel")
    placeholder = "image token; one run per frame, labels between; one run per image with all its tiles"
    verified = "masked oracle on a random-weight model"
    tower = FrameTower()
    projector = ("multi_modal_projector",)
    numbered = r"Frame(\d+)"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        side = _side(model.config, call)
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            found = runs(row == model.config.image_token_id) if call.has("image") else []
            for first, end in found:
                if (end - first) % side**2:
                    raise ArgumentError(
                        f"input_ids[{b}] has a run of {end - first} image tokens, which is no multiple of the "
                        f"{side**2} tokens of a frame or tile; pass the inputs as the processor makes them, the whole "
                        "prompt at once."
                    )
            items: list[VisualItem] = []
            for group in _LABELS.group(row.tolist(), found):
                of_tiles = group[0][1] - group[0][0] > side**2
                items += [item_of([run], side) for run in group] if of_tiles else [item_of(group, side)]
            layouts.append(layout_of(items))
        return layouts


def _side(config: Any, call: Call) -> int:
    """Rows and columns of tokens of a frame or tile; all views of a call are of one size, and square."""
    sizes = call.encoded_sizes("image")
    if sizes:
        return math.isqrt(sizes[0])
    pixels = call.arguments.get("pixel_values")
    if pixels is None:
        return 1
    rows, cols = (
        length // patch for length, patch in zip(pixels.shape[-2:], config.vision_config.patch_size, strict=True)
    )
    return int(math.isqrt(rows * cols) * config.downsample_ratio)
