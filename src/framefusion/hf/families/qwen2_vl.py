"""Qwen2-VL: one run of tokens a video or image, in raster order (t, h, w), with M-RoPE positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.layout import Kind, VisualItem, VisualLayout


class Qwen2VL(Family):
    name = "Qwen2-VL"
    model_classes = ("Qwen2VLForConditionalGeneration", "Qwen2VLModel")
    placeholder = "video or image token; one run per video or image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        grids: dict[Kind, Iterator[tuple[int, int, int]]] = {
            kind: iter(_grids(call, kind, config.vision_config.spatial_merge_size)) for kind in ("video", "image")
        }
        sizes = {kind: iter(call.encoded_sizes(kind) or []) for kind in grids}
        layouts = []
        for b in range(len(call.input_ids)):
            items: list[VisualItem] = []
            tokens: dict[Kind, int] = {"video": config.video_token_id, "image": config.image_token_id}
            for kind, token in tokens.items():
                if not call.has(kind):
                    continue
                columns = call.placeholders(b, token)
                known = call.arguments.get(f"{kind}_grid_thw") is not None
                source = grids[kind] if known else _from_positions(call, b, columns, sizes[kind])
                items += take_items(kind, columns, source, f"input_ids[{b}]")
            layouts.append(layout_of(items))
        return layouts


def _grids(call: Call, kind: Kind, merge: int) -> list[tuple[int, int, int]]:
    grid_thw = call.arguments.get(f"{kind}_grid_thw")
    return [] if grid_thw is None else [(t, h // merge, w // merge) for t, h, w in grid_thw.tolist()]


def _from_positions(call: Call, b: int, columns: Tensor, sizes: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """``generate()`` encodes videos ahead and drops their grids; the height and width positions still hold them.

    The temporal positions do not: frames may share one.
    """
    if call.position_ids is None or call.position_ids.ndim != 3:
        return
    rows, cols = call.position_ids[-2:, b].cpu()[:, columns]
    first = 0
    for size in sizes:
        mine = slice(first, first + size)
        h = int(rows[mine].max() - rows[mine].min()) + 1 if size and first < len(rows) else 1
        w = int(cols[mine].max() - cols[mine].min()) + 1 if size and first < len(rows) else 1
        yield (size // (h * w), h, w) if size % (h * w) == 0 else (0, h, w)
        first += size
