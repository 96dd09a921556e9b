"""PerceptionLM: one run of tokens a video, square frames one behind the other; one run an image, with all its tiles."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of
from framefusion.reduction.layout import Kind, VisualItem, VisualLayout, runs


class PerceptionLM(Family):
    """Videos come as pixels also inside ``generate()``, which encodes images alone ahead, so the frames are known. An
    image that was cut is one row of the tokens of all its tiles; images need words between.
    """

    name = "PerceptionLM"
    projector = ("multi_modal_projector",)
    model_classes = ("PerceptionLMForConditionalGeneration", "PerceptionLMModel")
    no_tower = "its tower comes from timm, whose blocks choose no attention function of transformers"
    needs_names: frozenset[Kind] = frozenset({"image"})
    placeholder = "video or image token; one run per video; one run per image with all its tiles"
    verified = "masked oracle on a random-weight model, its timm tower replaced"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        rows = call.input_ids.cpu()
        frames, tokens = _frame(call, int((rows == config.video_token_id).sum()))
        layouts = []
        for b, row in enumerate(rows):
            items: list[VisualItem] = []
            if call.has("video"):
                items += _videos(row == config.video_token_id, frames, tokens, f"input_ids[{b}]")
            if call.has("image"):
                found = runs(row == config.image_token_id)
                items += [VisualItem.run("image", (1, 1, end - first), first) for first, end in found]
            layouts.append(layout_of(items))
        return layouts


def _frame(call: Call, total: int) -> tuple[int, int]:
    """Frames of each video, 0 where a run is one, and tokens of each frame; all videos of a call are of one size.

    Args:
        call: with the pixels, ``(videos, T, C, H, W)``, or with the features of all frames.
        total: video tokens of the batch.
    """
    pixels = call.arguments.get("pixel_values_videos")
    if pixels is not None:
        frames = pixels.shape[1]
        return frames, max(total // (len(pixels) * frames), 1)
    output = call.encoded("video")
    return (0, 1) if output is None else (0, output.pooler_output.shape[1])


def _videos(placeholders: Tensor, frames: int, tokens: int, where: str) -> list[VisualItem]:
    items = []
    side = math.isqrt(tokens)
    size = (side, side) if side**2 == tokens else (1, tokens)
    for first, end in runs(placeholders):
        length = (frames or max((end - first) // tokens, 1)) * tokens
        if (end - first) % length:
            raise ArgumentError(
                f"{where} has a run of {end - first} video tokens, which is no whole number of videos of {length}; "
                "pass the inputs as the processor makes them, the whole prompt at once."
            )
        items += [VisualItem.run("video", (length // tokens, *size), start) for start in range(first, end, length)]
    return items
