"""Ovis2: one run of tokens for the whole view of an image and one for each tile, with an indicator token between."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from framefusion.hf.families.pictures import Picture, PictureFamily, of_groups, tiled
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import Span


class Ovis2(PictureFamily):
    """A frame is one view. Indicator tokens are embedded together with the image that they belong to, so those that
    close it are part of what is prefilled with it."""

    name = "Ovis2"
    model_classes = ("Ovis2ForConditionalGeneration", "Ovis2Model")
    tower = FrameTower()
    closing = 2
    projector = ("visual_embeddings_table",)
    one_view = MappingProxyType({"crop_to_patches": False})
    placeholder = "image token; one run per view and tile of an image; one run per frame, times between"

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        # Between images stand what closes one and what opens the next.
        return of_groups(tiled(found, 1), square=True)
