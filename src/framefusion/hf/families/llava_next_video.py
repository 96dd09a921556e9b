"""LLaVA-NeXT-Video: one run of ``T * (g // stride)**2`` tokens a video, in raster order."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.layout import VisualItem, VisualLayout, runs


class LlavaNextVideo(Family):
    name = "LLaVA-NeXT-Video"
    model_classes = ("LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel")
    placeholder = "video or image token; one run per video or image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        side = config.vision_config.image_size // config.vision_config.patch_size // config.spatial_pool_stride
        frames = 0
        if call.encoded("video") is not None:
            frames = call.encoded("video").pooler_output.shape[1] // side**2
        elif call.has("video"):
            frames = call.arguments["pixel_values_videos"].shape[1]
        # An image is a base view and rows of a bigger grid, each with a newline: no plain grid.
        sizes = iter(call.encoded_sizes("image") or [])
        assert call.input_ids is not None
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items: list[VisualItem] = []
            where = f"input_ids[{b}]"
            if call.has("video"):
                columns = call.placeholders(b, config.video_token_id)
                items += take_items("video", columns, repeat((frames, side, side)), where)
            if call.encoded("image") is not None:
                columns = call.placeholders(b, config.image_token_id)
                items += take_items("image", columns, ((1, 1, size) for size in sizes), where)
            elif call.has("image"):
                found = runs(row == config.image_token_id)
                items += [VisualItem.run("image", (1, 1, end - first), first) for first, end in found]
            layouts.append(layout_of(items))
        return layouts
