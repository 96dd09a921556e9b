"""Qwen2-VL: one run of tokens a video, in raster order (t, h, w), with M-RoPE positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from framefusion.hf.families.base import Call, Family
from framefusion.layout import VisualLayout, runs


class Qwen2VL(Family):
    name = "Qwen2-VL"
    model_classes = ("Qwen2VLForConditionalGeneration", "Qwen2VLModel")
    placeholder = "video token; one run per video"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        grid_thw = call.arguments.get("video_grid_thw")
        grids = None if grid_thw is None else iter(grid_thw.tolist())
        positions = None if call.position_ids is None else call.position_ids.cpu()
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            starts, sizes = [], []
            for first, end in runs(row == config.video_token_id):
                if grids is not None:
                    size = _from_grid(grids, config.vision_config.spatial_merge_size)
                else:
                    size = _from_positions(positions, b, first, end)
                if size[0] * size[1] * size[2] != end - first:
                    raise ValueError(
                        f"input_ids[{b}] has a run of {end - first} video tokens, but the video's grid has "
                        f"{size[0]}×{size[1]}×{size[2]}; pass the inputs as the processor makes them, the whole "
                        "prompt at once (no prefill_chunk_size), with mm_token_type_ids."
                    )
                starts.append(first)
                sizes.append(size)
            layouts.append(VisualLayout.from_grids(starts, sizes))
        return layouts


def _from_grid(grids: Iterator[list[int]], merge: int) -> tuple[int, int, int]:
    t, h, w = next(grids, (0, 0, 0))
    return t, h // merge, w // merge


def _from_positions(positions: Tensor | None, b: int, first: int, end: int) -> tuple[int, int, int]:
    """``generate()`` encodes the video ahead and drops its grid; the height and width positions still hold it.

    The temporal positions do not: frames may share one.
    """
    if positions is None or positions.ndim != 3:
        return 0, 0, 0
    h, w = positions[-2:, b, first:end]
    rows, cols = int(h.max() - h.min()) + 1, int(w.max() - w.min()) + 1
    return (end - first) // (rows * cols), rows, cols
