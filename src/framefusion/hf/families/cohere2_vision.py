"""Cohere2-Vision (Command A Vision): one run of tokens a tile of an image, with a line break behind each."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from framefusion.hf.families.pictures import Picture, PictureFamily, of_groups, tiled
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import Span


class Cohere2Vision(PictureFamily):
    """A large image is its tiles and the view of the whole; a frame is one view."""

    name = "Cohere2-Vision"
    model_classes = ("Cohere2VisionForConditionalGeneration", "Cohere2VisionModel")
    tower = FrameTower()
    one_view = MappingProxyType({"crop_to_patches": False})
    placeholder = "image token; one run per tile of an image; one run per frame, times between"

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        # Between images stand at least what closes one and what opens the next.
        return of_groups(tiled(found, 1), square=True)
