"""LLaVA-OneVision: one run of ``T * ceil(g / 2)**2`` tokens a video and one newline token at its end."""

from __future__ import annotations

import math
from typing import Any

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.layout import VisualItem, VisualLayout, runs


class LlavaOnevision(Family):
    name = "LLaVA-OneVision"
    model_classes = ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel")
    placeholder = "video or image token; one run per video or image; the newline at a video's end stays, as text"
    verified = "masked oracle on a random-weight model; bundled trained checkpoint"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        side = math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)
        frames = 0
        if call.encoded("video") is not None:
            frames = (call.encoded("video").pooler_output.shape[1] - 1) // side**2
        elif call.has("video"):
            frames = call.arguments["pixel_values_videos"].shape[1]
        # An image is a base view and, for large ones, rows of a bigger grid, each with a newline: no plain grid.
        sizes = iter(call.encoded_sizes("image") or [])
        assert call.input_ids is not None
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items: list[VisualItem] = []
            if call.has("video"):
                items += _videos(row == config.video_token_id, (frames, side, side), b)
            if call.encoded("image") is not None:
                columns = call.placeholders(b, config.image_token_id)
                items += take_items("image", columns, ((1, 1, size) for size in sizes), f"input_ids[{b}]")
            elif call.has("image"):
                found = runs(row == config.image_token_id)
                items += [VisualItem.run("image", (1, 1, end - first), first) for first, end in found]
            layouts.append(layout_of(items))
        return layouts


def _videos(placeholders: Any, grid: tuple[int, int, int], b: int) -> list[VisualItem]:
    length, items = math.prod(grid) + 1, []
    for first, end in runs(placeholders):
        if (end - first) % length:
            raise ValueError(
                f"input_ids[{b}] has a run of {end - first} video tokens, which is no multiple of the {length} tokens "
                f"of a video of {grid[0]} frames; pass the inputs as the processor makes them, the whole prompt at "
                "once."
            )
        items += [VisualItem.run("video", grid, start) for start in range(first, end, length)]
    return items
