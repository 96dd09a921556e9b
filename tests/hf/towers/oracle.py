"""The slow way to encode only what changed: the official tower at full length, every place holding its latest version.

Before the first block and behind every one, each row becomes a copy of the row that is its latest encoded version. So
whatever attends to an unchanged place meets the keys and values of that version, and its output is a copy. In the last
blocks, those that run over everything, nothing becomes a copy any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from framefusion.hf import tower as towers
from framefusion.hf.families import find
from tests.hf.case import Case


def origins(masks: Sequence[Tensor]) -> list[int]:
    """For each unit of all clips the one that is its latest encoded version, itself if it is encoded."""
    result, first = [], 0
    for mask in masks:
        frames, units = mask.shape
        for t in range(frames):
            for u in range(units):
                latest = max(before for before in range(t + 1) if mask[before, u])
                result.append(first + latest * units + u)
        first += frames * units
    return result


def window_order(grids: list[list[int]], merge: int, side: int) -> list[int]:
    """The units of Qwen2.5-VL's videos, window by window, ``side`` units in each direction."""
    order, first = [], 0
    for frames, height, width in grids:
        rows, cols = height // merge, width // merge
        for t in range(frames):
            for top in range(0, rows, side):
                for left in range(0, cols, side):
                    order += [
                        first + (t * rows + row) * cols + col
                        for row in range(top, min(top + side, rows))
                        for col in range(left, min(left + side, cols))
                    ]
        first += frames * rows * cols
    return order


def row_origins(case: Case, inputs: dict[str, Any], masks: Sequence[Tensor]) -> Tensor:
    """For each row of the blocks' input the row that is its latest encoded version."""
    model = case.model.base_model
    kind = find(model).tower
    assert kind is not None
    tower = kind.module(model)
    if "video_grid_thw" not in inputs:
        # A class token in front is encoded with any patch of its frame.
        extra = int(type(tower.config).__name__.startswith(("CLIP", "InternVL")))
        masks = [torch.cat([mask.any(1, keepdim=True)] * extra + [mask], 1) for mask in masks]
        return torch.tensor(origins(masks))
    units, merged = origins(masks), tower.spatial_merge_size**2
    if hasattr(tower, "window_size"):
        side = tower.window_size // tower.spatial_merge_size // tower.patch_size
        order = window_order(inputs["video_grid_thw"].tolist(), tower.spatial_merge_size, side)
        units = [order.index(units[unit]) for unit in order]
    return torch.tensor([unit * merged + row for unit in units for row in range(merged)])


@contextmanager
def at_full_length(case: Case, inputs: dict[str, Any], masks: Sequence[Tensor], full: int = 0) -> Iterator[None]:
    """Inside the block the tower of a model encodes as said above; ``full`` blocks, the last ones, run over all."""
    model = case.model.base_model
    kind = find(model).tower
    assert kind is not None
    rows = row_origins(case, inputs, masks)

    def latest(hidden: Tensor) -> Tensor:
        return hidden.flatten(0, -2)[rows].view_as(hidden)

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        return (latest(args[0]), *args[1:]), kwargs

    blocks = kind.blocks(kind.module(model))
    blocks = blocks[: len(blocks) - full]
    hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    # Before those of transformers, which note hidden states.
    hooks += [block.register_forward_hook(lambda m, a, output: latest(output), prepend=True) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def features(case: Case, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """All that the model's encoding gives, flat, by name."""
    kind = find(case.model).tower
    assert kind is not None
    if kind.features == "video":
        names = ("pixel_values_videos", "video_grid_thw")
        encode = case.model.base_model.get_video_features
    else:
        names = ("pixel_values", "pixel_attention_mask")
        encode = case.model.base_model.get_image_features
    taken = {name: inputs[name] for name in names if name in inputs}
    with torch.no_grad(), towers.prompt(inputs["input_ids"]):
        output = encode(**taken, return_dict=True)
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        if name == "visual_indicator_features":
            # Embeddings of markers, whatever is shown.
            continue
        values = [value] if isinstance(value, Tensor) else list(value)
        flat = [part for one in values if one is not None for part in ([one] if isinstance(one, Tensor) else one)]
        found[name] = torch.cat([part.flatten(0, -2) for part in flat])
    return found
