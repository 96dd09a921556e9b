"""VideoLLaMA3: one run of tokens a frame, with timestamps between; its processor leaves still tokens out."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.reduction.layout import Kind, VisualItem, VisualLayout


class VideoLlama3(Family):
    """The processor drops tokens that hardly differ from the frame before and says which in
    ``video_compression_mask``. What is left lies in one run a frame, and patches count as they did before.

    ``generate()`` drops the grids. A video's frames are then its runs, and a frame counts as one row, as nothing tells
    its height and width; an image counts as one row as well.
    """

    name = "VideoLLaMA3"
    model_classes = ("VideoLlama3ForConditionalGeneration", "VideoLlama3Model")
    placeholder = "video or image token; one run per frame without its still tokens, timestamps between"
    verified = "masked oracle on a random-weight model"
    no_tower = "its processor leaves still patches out already, and its tower merges by a size of each video's own"
    projector = ("projector",)
    frames_apart = True
    all_tokens = MappingProxyType({"use_token_compression": False})

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        assert call.input_ids is not None
        videos = _videos(call) if call.has("video") else iter(())
        images = iter(_grids(call, "image") or [(1, 1, size) for size in call.encoded_sizes("image") or []])
        layouts = []
        for b in range(len(call.input_ids)):
            items: list[VisualItem] = []
            if call.has("video"):
                items += _take_videos(call.placeholders(b, config.video_token_id), videos, f"input_ids[{b}]")
            if call.has("image"):
                items += take_items("image", call.placeholders(b, config.image_token_id), images, f"input_ids[{b}]")
            layouts.append(layout_of(items))
        return layouts


class _Video(NamedTuple):
    """What the call tells about a video: its grid, if it came along, and the ``(T * H * W,)`` bool cells it kept."""

    grid: tuple[int, int, int] | None
    kept: Tensor


def _grids(call: Call, kind: Kind) -> list[tuple[int, int, int]] | None:
    grid_thw, merges = call.arguments.get(f"{kind}_grid_thw"), call.arguments.get(f"{kind}_merge_sizes")
    if grid_thw is None or merges is None:
        return None
    return [(t, h // m, w // m) for (t, h, w), m in zip(grid_thw.tolist(), merges.tolist(), strict=True)]


def _videos(call: Call) -> Iterator[_Video]:
    grids = _grids(call, "video")
    sizes = [t * h * w for t, h, w in grids] if grids is not None else call.encoded_sizes("video") or []
    mask = call.arguments.get("video_compression_mask")
    mask = torch.ones(sum(sizes), dtype=torch.bool) if mask is None else mask.cpu().bool()
    if len(mask) != sum(sizes):
        raise ArgumentError(
            f"video_compression_mask has {len(mask)} entries, but the videos have {sum(sizes)} tokens before "
            "compression; pass it as the processor makes it."
        )
    known = grids if grids is not None else [None] * len(sizes)
    return (_Video(grid, kept) for grid, kept in zip(known, mask.split(sizes), strict=True))


def _take_videos(columns: Tensor, videos: Iterator[_Video], where: str) -> list[VisualItem]:
    """Cut the placeholder columns of one sample into videos, each with as many as its compression kept."""
    items, first = [], 0
    while first < len(columns):
        video = next(videos, None)
        count = 0 if video is None else int(video.kept.sum())
        if video is None or not count or first + count > len(columns):
            raise ArgumentError(
                f"{where} has {len(columns)} video tokens, of which {first} belong to whole videos and the rest do not "
                f"match the {count} that the next one kept; pass the inputs as the processor makes them, the whole "
                "prompt at once."
            )
        mine = columns[first : first + count]
        grid = video.grid or _from_runs(mine, video.kept, where)
        items.append(VisualItem("video", grid, mine, video.kept.nonzero().squeeze(-1)))
        first += count
    return items


def _from_runs(columns: Tensor, kept: Tensor, where: str) -> tuple[int, int, int]:
    """The grid of a video whose frames are the runs of its columns."""
    starts = (columns.diff(prepend=columns[:1] - 2) != 1).nonzero().squeeze(-1)
    frames, lengths = len(starts), starts.diff(append=starts.new_tensor([len(columns)]))
    if len(kept) % frames or (kept.view(frames, -1).sum(1) != lengths).any():
        raise ArgumentError(
            f"{where} has a video in {frames} runs of {lengths.tolist()} tokens, which are not what its "
            "video_compression_mask keeps of each frame; pass both as the processor makes them."
        )
    return frames, 1, len(kept) // frames
