"""Aria: one run of tokens an image, as many for each of its crops, which learned queries ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from framefusion.hf.families.pictures import Picture, PictureFamily, of_groups
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import Span


class Aria(PictureFamily):
    """Tokens of a query show no place of the image, so they lie in no grid."""

    name = "Aria"
    model_classes = ("AriaForConditionalGeneration", "AriaModel")
    tower = FrameTower()
    placeholder = "image token; one run per frame or image with all its crops; times between frames"

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        return of_groups([[span] for span in found], square=False)
