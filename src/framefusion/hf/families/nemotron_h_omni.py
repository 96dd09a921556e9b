"""Nemotron-H-Omni: one run of tokens every two frames, labels between; layers attend, keep a state or do neither."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call
from framefusion.hf.families.glm4v import Glm4v
from framefusion.hf.families.qwen2_vl import Grid
from framefusion.hf.towers.base import Tower
from framefusion.reduction.layout import Kind, VisualLayout


class NemotronHOmni(Glm4v):
    """The model takes either videos or images in one call, as GLM-4.1V. Inside ``generate()``, which drops the pixels,
    two frames count as one row.
    """

    name = "Nemotron-H-Omni"
    model_classes = ("NemotronH_Omni_Reasoning_V3",)
    projector = ("multi_modal_projector",)
    tower: Tower | None = None
    no_tower = "its tower sees two frames as the channels of one picture"
    frames_apart = False
    # The processor knows the time of a tick in whole milliseconds.
    ticks = 1000
    numbered = r"[Ff]rame (\d+) sampled"
    placeholder = "image token, for videos too; one run every two frames, labels between; one run per image"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        if model.video_pruning_rate and call.has("video"):
            raise ArgumentError(
                f"this model drops video tokens itself (video_pruning_rate={model.video_pruning_rate}), and two rules "
                "cannot choose among the same ones; set model.video_pruning_rate = 0, or the same in its config.json."
            )
        return super().layouts(model, call)

    def grids(self, config: Any, call: Call, kind: Kind) -> Iterator[Grid] | None:
        merge = round(1 / config.downsample_ratio)
        if kind == "image":
            sizes = call.arguments.get("image_grid_hw")
            return None if sizes is None else iter([(1, h // merge, w // merge) for h, w in sizes.tolist()])
        pixels, side = call.arguments.get("pixel_values_videos"), merge * config.vision_config.patch_size
        if pixels is None:
            return None
        videos, times, _, height, width = pixels.shape
        return iter([(times, height // side, width // side)] * videos)
