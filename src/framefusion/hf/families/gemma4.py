"""Gemma 4: one run of tokens a frame, with times between; the small ones have inputs of each layer's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from framefusion.hf.families.base import Call
from framefusion.hf.families.qwen2_vl import Grid
from framefusion.hf.families.qwen3_vl import Qwen3VL
from framefusion.hf.towers.base import Tower
from framefusion.reduction.layout import Kind


class Gemma4(Qwen3VL):
    """Frames and images are pooled to grids of their own aspect. The call tells where each patch is; ``generate()``
    drops that with the pixels, and a frame counts as one row.

    In the large models the patches of a frame see each other in the layers with windows, not in the others. In the
    small ones (E2B, E4B) the last layers attend to the keys and values of earlier ones, and ``generate()`` runs them on
    the last token alone: a stage behind the first of them drops nothing from memory, and has the layers up to it run on
    all that is there. So their stages are best put before that layer.
    """

    name = "Gemma 4"
    model_classes = ("Gemma4ForConditionalGeneration", "Gemma4Model")
    projector = ("embed_vision",)
    tower: Tower | None = None
    frames_apart = False
    no_tower = "its tower pads frames to one number of patches and pools them by their places inside"
    groups_in_windows = True
    per_layer = ("per_layer_inputs", "per_layer_input")

    def per_layer_inputs(self, decoder: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        if not decoder.config.hidden_size_per_layer_input:
            return None
        made: Tensor = decoder.project_per_layer_inputs(arguments["inputs_embeds"], arguments["per_layer_inputs"])
        return made

    def grids(self, config: Any, call: Call, kind: Kind) -> Iterator[Grid] | None:
        # (F, P, 2): column and row of each patch of all frames or images, -1 for padding.
        places = call.arguments.get(f"{kind}_position_ids")
        if places is None or call.encoded(kind) is not None:
            return None
        frames = call.arguments.get("num_frames_per_video") if kind == "video" else None
        counts = [1] * len(places) if frames is None else torch.as_tensor(frames).tolist()
        sizes = ((places.amax(1) + 1) // config.vision_config.pooling_kernel_size).tolist()
        first = [sum(counts[:index]) for index in range(len(counts))]
        return iter([(count, int(sizes[at][1]), int(sizes[at][0])) for count, at in zip(counts, first, strict=True)])
