"""Mistral 3 (Mistral Small, Ministral): a run for each row of an image, with a break between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from framefusion.hf.families.base import Call
from framefusion.hf.families.pictures import Picture, PictureFamily, of_sizes
from framefusion.reduction.layout import Span


class Mistral3(PictureFamily):
    """Breaks and ends are text. Images next to each other are told apart by what was encoded, or by ``image_sizes``."""

    name = "Mistral 3"
    model_classes: tuple[str, ...] = ("Mistral3ForConditionalGeneration", "Mistral3Model")
    no_tower = "its tower packs the frames, of a size of their own each, into one row of patches"
    placeholder = "image token; one run per row of a frame or image; times between frames"

    def cell(self, model: Any) -> int:
        """Pixels of the side of a token."""
        return int(model.vision_tower.config.patch_size * model.config.spatial_merge_size)

    def sizes(self, model: Any, call: Call, found: list[list[Span]]) -> list[int]:
        encoded, pixels = call.encoded_sizes("image"), call.arguments.get("image_sizes")
        if encoded is not None or pixels is None:
            return encoded or []
        cell = self.cell(model)
        return [int(h) // cell * (int(w) // cell) for h, w in torch.as_tensor(pixels).tolist()]

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        pictures = []
        for columns in of_sizes(found, sizes, where):
            breaks = (columns.diff() != 1).nonzero()
            width = int(breaks[0]) + 1 if len(breaks) else len(columns)
            plain = len(columns) == width * (len(breaks) + 1)
            pictures.append(Picture(columns, (len(columns) // width, width) if plain else (1, len(columns))))
        return pictures
