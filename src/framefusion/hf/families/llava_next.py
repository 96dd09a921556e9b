"""LLaVA-NeXT: one run of tokens an image: the whole view, then its tiles with a newline behind each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from framefusion.hf.families.base import Call
from framefusion.hf.families.llava_onevision import image_lengths
from framefusion.hf.families.pictures import Picture, PictureFamily, of_sizes
from framefusion.reduction.layout import Span


class LlavaNext(PictureFamily):
    """The processor cannot but show every frame twice, whole and in tiles: tokens of a frame lie in no plain grid."""

    name = "LLaVA-NeXT"
    model_classes = ("LlavaNextForConditionalGeneration", "LlavaNextModel")
    no_tower = "its processor shows every frame as a whole and in tiles, so that a frame is several pictures"
    placeholder = "image token; one run per frame or image, of a whole view and tiles; times between frames"

    def sizes(self, model: Any, call: Call, found: list[list[Span]]) -> list[int]:
        return call.encoded_sizes("image") or image_lengths(model, call, found)

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        return [Picture(columns, (1, len(columns))) for columns in of_sizes(found, sizes, where)]
