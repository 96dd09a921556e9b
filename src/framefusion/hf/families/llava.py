"""LLaVA: one run of tokens an image, all of one size; with Pixtral's encoder (Pixtral 12B) a run for each row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from framefusion.hf.families.base import Call
from framefusion.hf.families.mistral3 import Mistral3
from framefusion.hf.families.pictures import Picture
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import Span


class Llava(Mistral3):
    """Its chat template puts images before all words, labels of frames too; frames then count as images, each for
    itself."""

    name = "LLaVA"
    model_classes = ("LlavaForConditionalGeneration", "LlavaModel")
    tower = FrameTower()
    placeholder = "image token; one run per frame or image, or per row of one; times between frames"

    def cell(self, model: Any) -> int:
        return int(model.vision_tower.config.patch_size)

    def sizes(self, model: Any, call: Call, found: list[list[Span]]) -> list[int]:
        pixels = call.arguments.get("pixel_values")
        if pixels is None or call.arguments.get("image_sizes") is not None:
            return super().sizes(model, call, found)
        tokens = sum(end - first for mine in found for first, end in mine)
        return [tokens // len(pixels)] * len(pixels)

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        return [_squared(picture) for picture in super().pictures(model, row, found, sizes, where)]


def _squared(picture: Picture) -> Picture:
    """CLIP sees a square; what is none has the class token in front."""
    count, (height, _) = len(picture.columns), picture.grid
    side = math.isqrt(count)
    return Picture(picture.columns, (side, side)) if height == 1 and side**2 == count else picture
