"""Qwen3-VL: one run of tokens a frame, with timestamps between, and M-RoPE positions."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call
from framefusion.hf.families.qwen2_vl import Grid, Qwen2VL, spread


class Qwen3VL(Qwen2VL):
    """A video's runs are its frames, in raster order (h, w).

    ``generate()`` drops the grids. A frame's height and width are then read off its positions; where these do not
    tell, as without ``mm_token_type_ids``, a frame counts as one row.
    """

    name = "Qwen3-VL"
    model_classes: tuple[str, ...] = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
    placeholder = "video or image token; one run per frame, timestamps between; one run per image"
    tells_encoder = False

    def measured(self, call: Call, b: int, columns: Tensor, sizes: Iterator[int]) -> Iterator[Grid]:
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
                raise ArgumentError(
                    f"input_ids[{b}] has {size} tokens of one item in {frames} runs of different lengths, but a frame "
                    "is one run; pass the inputs as the processor makes them, the whole prompt at once."
                )
            yield frames, *_frame_size(call, b, mine[: size // frames])


def _frame_size(call: Call, b: int, frame: Tensor) -> tuple[int, int]:
    if call.position_ids is not None and call.position_ids.ndim == 3:
        h, w = spread(call.position_ids, b, frame)
        if h * w == len(frame):
            return h, w
    return 1, len(frame)
