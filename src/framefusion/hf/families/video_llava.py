"""Video-LLaVA: one run of tokens a video, each frame with the class token in front; one run an image."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.hf.towers.views import ViewTower
from framefusion.reduction.layout import Kind, VisualItem, VisualLayout, runs


class _VideoTower(ViewTower):
    """Images have a tower of their own."""

    def module(self, model: Any) -> Any:
        return model.video_tower


class VideoLlava(Family):
    """The class token of a frame is reduced with its patches, so a frame lies in no plain grid. Videos and images that
    stand next to each other without a word count as one."""

    name = "Video-LLaVA"
    model_classes = ("VideoLlavaForConditionalGeneration", "VideoLlavaModel")
    needs_names: frozenset[Kind] = frozenset({"video", "image"})
    projector = ("multi_modal_projector",)
    tower = _VideoTower()
    placeholder = "video or image token; one run per video or image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        # The processor still calls them so.
        shows_images = call.has("image") or call.arguments.get("pixel_values_images") is not None
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items = self._videos(row == config.video_token_id, patches + 1, b) if call.has("video") else []
            for first, end in runs(row == config.image_token_id) if shows_images else []:
                side = math.isqrt(end - first)
                grid = (1, side, side) if side**2 == end - first else (1, 1, end - first)
                items.append(VisualItem.run("image", grid, first))
            layouts.append(layout_of(items))
        return layouts

    def _videos(self, placeholders: Tensor, frame: int, b: int) -> list[VisualItem]:
        items = []
        for first, end in runs(placeholders):
            if (end - first) % frame:
                raise ArgumentError(
                    f"input_ids[{b}] has a run of {end - first} video tokens, which is no multiple of the {frame} "
                    "tokens of a frame; pass the inputs as the processor makes them, the whole prompt at once."
                )
            items.append(VisualItem.run("video", ((end - first) // frame, 1, frame), first))
        return items
