"""Gemma 3: one run of tokens an image, all of one size; a video is put in the prompt as several images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.hf.families.frames import FrameLabels, item_of
from framefusion.hf.towers.base import Tower
from framefusion.hf.towers.views import FrameTower
from framefusion.reduction.layout import Kind, VisualLayout, runs

_LABELS = FrameLabels(shortest=1, number=6, repeats=True)
"""Nothing but what opens an image, or words of the prompt's author with a number or time among them."""


class Gemma3(Family):
    """The processor knows images only, so the prompt tells which are the frames of a video: two or more, one after
    the other, with nothing between or labels that differ in a number alone, such as "Frame 1:", "Frame 2:", …, see
    :class:`~framefusion.hf.families.frames.FrameLabels`. Images with other words between are images, each for itself;
    so are frames whose labels begin with the number.

    Most layers see a window of the conversation only. Attention that is recorded in such a layer is zero for the
    tokens before the window, so a stage that goes by attention is best put right behind a full-attention layer.
    """

    name = "Gemma 3"
    model_classes: tuple[str, ...] = ("Gemma3ForConditionalGeneration", "Gemma3Model")
    needs_names: frozenset[Kind] = frozenset({"image"})
    frames_as_images = True
    projector: tuple[str, ...] = ("multi_modal_projector",)
    one_view: Mapping[str, Any] = MappingProxyType({"do_pan_and_scan": False})
    placeholder = "image token; one run per frame or image; frames follow each other, with labels between or none"
    verified = "masked oracle on a random-weight model"
    tower: Tower | None = FrameTower()

    def tokens(self, config: Any) -> int:
        """Tokens of an image."""
        return int(config.mm_tokens_per_image)

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        side = math.isqrt(self.tokens(model.config))
        assert call.input_ids is not None
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            found = runs(row == model.config.image_token_id) if call.has("image") else []
            for first, end in found:
                if end - first != side**2:
                    raise ArgumentError(
                        f"input_ids[{b}] has a run of {end - first} image tokens, but an image has {side**2}; pass the "
                        "inputs as the processor makes them, the whole prompt at once."
                    )
            layouts.append(layout_of([item_of(group, side) for group in _LABELS.group(row.tolist(), found)]))
        return layouts
