"""Qwen3-VL: one run of tokens a frame, with timestamps between, and M-RoPE positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.layout import Kind, VisualItem, VisualLayout


class Qwen3VL(Family):
    """A video's runs are its frames, in raster order (h, w).

    ``generate()`` drops the grids. A frame's height and width are then read off its positions; where these do not
    tell, as without ``mm_token_type_ids``, a frame counts as one row.
    """

    name = "Qwen3-VL"
    model_classes: tuple[str, ...] = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
    placeholder = "video or image token; one run per frame, timestamps between; one run per image"
    verified = "masked oracle on a random-weight model"

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        tokens = self.tokens(model.config, call)
        merge = model.config.vision_config.spatial_merge_size
        grids: dict[Kind, Iterator[tuple[int, int, int]]] = {kind: iter(_grids(call, kind, merge)) for kind in tokens}
        sizes = {kind: iter(call.encoded_sizes(kind) or []) for kind in tokens}
        layouts = []
        for b in range(len(call.input_ids)):
            items: list[VisualItem] = []
            for kind, token in tokens.items():
                columns = call.placeholders(b, token)
                has_grids = call.arguments.get(f"{kind}_grid_thw") is not None
                source = grids[kind] if has_grids else _from_runs(call, b, columns, sizes[kind])
                items += take_items(kind, columns, source, f"input_ids[{b}]")
            layouts.append(layout_of(items))
        return layouts

    def tokens(self, config: Any, call: Call) -> dict[Kind, int]:
        """The placeholder of each kind that came with the call."""
        known: dict[Kind, int] = {"video": config.video_token_id, "image": config.image_token_id}
        return {kind: token for kind, token in known.items() if call.has(kind)}


def _grids(call: Call, kind: Kind, merge: int) -> list[tuple[int, int, int]]:
    grid_thw = call.arguments.get(f"{kind}_grid_thw")
    return [] if grid_thw is None else [(t, h // merge, w // merge) for t, h, w in grid_thw.tolist()]


def _from_runs(call: Call, b: int, columns: Tensor, sizes: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """The grids of the items of ``sizes`` tokens whose placeholders are ``columns``: their frames are their runs."""
    first = 0
    for size in sizes:
        mine = columns[first : first + size]
        first += size
        frames = int((mine.diff() != 1).sum()) + 1
        if len(mine) < size:
            # The caller has too few columns for this and refuses it.
            yield 1, 1, size
            continue
        if size % frames or (mine.view(frames, -1).diff() != 1).any():
            raise ValueError(
                f"input_ids[{b}] has {size} tokens of one item in {frames} runs of different lengths, but a frame is "
                "one run; pass the inputs as the processor makes them, the whole prompt at once."
            )
        yield frames, *_frame_size(call, b, mine[: size // frames])


def _frame_size(call: Call, b: int, frame: Tensor) -> tuple[int, int]:
    if call.position_ids is not None and call.position_ids.ndim == 3:
        rows, cols = call.position_ids[-2:, b].cpu()[:, frame]
        h, w = int(rows.max() - rows.min()) + 1, int(cols.max() - cols.min()) + 1
        if h * w == len(frame):
            return h, w
    return 1, len(frame)
