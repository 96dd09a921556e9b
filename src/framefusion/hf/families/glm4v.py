"""GLM-4.1V: one run of tokens a frame, with timestamps between; videos use the placeholder of images."""

from __future__ import annotations

from typing import Any

from framefusion.hf.families.base import Call
from framefusion.hf.families.qwen3_vl import Qwen3VL
from framefusion.reduction.layout import Kind


class Glm4v(Qwen3VL):
    """Laid out as Qwen3-VL, but with one placeholder for both kinds.

    The model itself takes either videos or images in one call, never both, so the call tells which they are.
    """

    name = "GLM-4.1V"
    model_classes: tuple[str, ...] = ("Glm4vForConditionalGeneration", "Glm4vModel")
    mixes = False
    projector: tuple[str, ...] = ("visual.downsample", "visual.merger")
    placeholder = "image token, for videos too; one run per frame, timestamps between; one run per image"

    def tokens(self, config: Any, call: Call) -> dict[Kind, int]:
        return {"video" if call.has("video") else "image": config.image_token_id}
