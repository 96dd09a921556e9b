"""LLaVA-OneVision: one run of ``T * ceil(g / 2)**2`` tokens a video and one newline token at its end."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.layout import VisualItem, VisualLayout, runs


class LlavaOnevision(Family):
    """A video is a run of square frames. An image is a base view and, if it is large, the rows of a bigger grid, each
    with a newline: no plain grid.
    """

    name = "LLaVA-OneVision"
    model_classes: tuple[str, ...] = ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel")
    placeholder = "video or image token; one run per video or image; the newline at a video's end stays, as text"
    verified = "masked oracle on a random-weight model; bundled trained checkpoint"
    newlines = 1
    """Tokens behind a video that carry its placeholder, but show none of it."""

    def side(self, config: Any) -> int:
        """Rows and columns of tokens of a frame."""
        return math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        side, frames = self.side(config), 0
        if call.encoded("video") is not None:
            frames = (call.encoded("video").pooler_output.shape[1] - self.newlines) // side**2
        elif call.has("video"):
            frames = call.arguments["pixel_values_videos"].shape[1]
        sizes = iter(call.encoded_sizes("image") or [])
        assert call.input_ids is not None
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items: list[VisualItem] = []
            if call.has("video"):
                items += self._videos(row == config.video_token_id, (frames, side, side), b)
            if call.encoded("image") is not None:
                columns = call.placeholders(b, config.image_token_id)
                items += take_items("image", columns, ((1, 1, size) for size in sizes), f"input_ids[{b}]")
            elif call.has("image"):
                found = runs(row == config.image_token_id)
                items += [VisualItem.run("image", (1, 1, end - first), first) for first, end in found]
            layouts.append(layout_of(items))
        return layouts

    def _videos(self, placeholders: Tensor, grid: tuple[int, int, int], b: int) -> list[VisualItem]:
        length, items = math.prod(grid) + self.newlines, []
        for first, end in runs(placeholders):
            if (end - first) % length:
                raise ArgumentError(
                    f"input_ids[{b}] has a run of {end - first} video tokens, which is no multiple of the {length} "
                    f"tokens of a video of {grid[0]} frames; pass the inputs as the processor makes them, the whole "
                    "prompt at once."
                )
            items += [VisualItem.run("video", grid, start) for start in range(first, end, length)]
        return items
