"""What replaces methods of vLLM's Qwen2.5-VL and Qwen3-VL while an engine selects by framefusion.

Each function here takes the method it replaces, which stays in charge of engines that do not. The engine's own way of
positions is replaced too: it writes them into features, where bfloat16 rounds those above 256; and it lays out prompts
as if nothing were pruned, so that a second video or image fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from framefusion.vllm import positions
from framefusion.vllm.needs import Need
from framefusion.vllm.positions import CHANNELS, Item, Places
from framefusion.vllm.rate import Rate
from framefusion.vllm.rules import COUNT, count
from framefusion.vllm.selection import retention_mask

Method = Callable[..., Any]


def _only_with_a_rate(replacement: Callable[..., Any]) -> Callable[[Method], Method]:
    """Make ``replacement(model, stock, …)`` a wrapper of the stock method, which stays for engines without a
    :class:`Rate`."""

    def around(stock: Method) -> Method:
        @wraps(stock)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Classes that inherit the methods may have no rate; with 0 the engine expects nothing from them.
            rate = getattr(self, "video_pruning_rate", None)
            if isinstance(rate, Rate) and rate > 0:
                return replacement(self, stock, *args, **kwargs)
            return stock(self, *args, **kwargs)

        return method

    return around


@_only_with_a_rate
def images(model: Any, stock: Method, image_embeds_split: Sequence[Tensor], image_input: Any) -> tuple[Tensor, ...]:
    """Features of images with their places; images are never pruned."""
    with _syncing():
        return tuple(
            _with_places(features, _grid_places(grid, features.device, 1.0))
            for features, grid in zip(image_embeds_split, _grids(model, image_input["image_grid_thw"]), strict=True)
        )


@_only_with_a_rate
def videos_2_5(model: Any, stock: Method, video_embeds_split: Sequence[Tensor], video_input: Any) -> tuple[Tensor, ...]:
    """Features of the tokens of Qwen2.5-VL's videos that stay, with their places."""
    rate: Rate = model.video_pruning_rate
    seconds = video_input.get("second_per_grid_ts")
    grids = _grids(model, video_input["video_grid_thw"])
    # Without them the engine's own layout counts a second for each grid.
    intervals = [1.0] * len(grids) if seconds is None else seconds.flatten().tolist()
    result = []
    with _syncing():
        for features, grid, interval in zip(video_embeds_split, grids, intervals, strict=True):
            kept = retention_mask(features, grid, rate, rate.settings)
            factor = interval * getattr(model.config.vision_config, "tokens_per_second", 1.0)
            everything = _grid_places(grid, features.device, factor).positions
            stay = int(kept.sum())
            offsets = torch.arange(stay, device=features.device)
            span = int(everything.max()) + 1
            result.append(_with_places(features[kept], Places(offsets, everything[:, kept], 0, stay, span)))
    return tuple(result)


@_only_with_a_rate
def videos_3(model: Any, stock: Method, video_embeds_split: Sequence[Tensor], video_input: Any) -> tuple[Tensor, ...]:
    """Features of the tokens of Qwen3-VL's videos that stay, between the embeddings of their time stamps."""
    rate: Rate = model.video_pruning_rate
    rows = zip(video_embeds_split, video_input["video_grid_thw"].tolist(), video_input.timestamps, strict=True)
    result = []
    with _syncing():
        for features, grid, timestamps in rows:
            merge = model.visual.spatial_merge_size
            in_tokens = grid[0], grid[1] // merge, grid[2] // merge
            # The features of deeper layers follow those of the last.
            kept = retention_mask(
                features[:, : model.config.vision_config.out_hidden_size], in_tokens, rate, rate.settings
            )
            result.append(
                model._create_final_video_embeddings(
                    video_embeddings=features[kept],
                    num_tokens_per_frame=kept.reshape(grid[0], -1).sum(1).tolist(),
                    timestamps=timestamps,
                    video_grid_thw=grid,
                    retention_mask=kept,
                )
            )
    return tuple(result)


@_only_with_a_rate
def channels_3(model: Any, stock: Method, *args: Any, **kwargs: Any) -> Tensor:
    """The places of one of Qwen3-VL's videos and of its time stamps, as channels."""
    expanded = stock(model, *args, **kwargs)
    # The prompt has all tokens of a video in its first frame, behind its first start mark.
    lead = int((expanded[:, 3] != 0).nonzero()[0]) + 1
    offsets = torch.arange(len(expanded), device=expanded.device)
    # A video ends with the end mark of its last frame, which has its largest position.
    places = Places(offsets, expanded[:, :3].T, lead, int((expanded[:, 4] != 0).sum()), int(expanded[:, :3].max()) + 1)
    return positions.encode(places, expanded.dtype)


@_only_with_a_rate
def prompt_positions_2_5(
    model: Any, stock: Method, input_tokens: list[int], mm_features: Sequence[Any]
) -> tuple[Tensor, int]:
    """Positions of a prompt of Qwen2.5-VL before its features are known."""
    ordered = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
    items = []
    for feature, (offset, frames, height, width, factor) in zip(ordered, model.iter_mm_grid_thw(ordered), strict=True):
        span = max(int((frames - 1) * factor), height - 1, width - 1) + 1
        items.append(Item(offset, feature.mm_position.length, span))
    return _laid_out(input_tokens, items)


@_only_with_a_rate
def prompt_positions_3(
    model: Any, stock: Method, input_tokens: list[int], mm_features: Sequence[Any]
) -> tuple[Tensor, int]:
    """Positions of a prompt of Qwen3-VL before its features are known."""
    merge, video_token = model.config.vision_config.spatial_merge_size, model.config.video_token_id
    items, pruned = [], False
    for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
        offset, length = feature.mm_position.offset, feature.mm_position.length
        frames, height, width = feature.data[f"{feature.modality}_grid_thw"].data.tolist()
        span = max(height, width) // merge
        if feature.modality == "video":
            visual = input_tokens[offset : offset + length].count(video_token)
            pruned |= visual != frames * (height // merge) * (width // merge)
            span = length - visual + frames * span
        items.append(Item(offset, length, span))
    # The engine asks for the positions of a whole video as well, token by token.
    return _laid_out(input_tokens, items) if pruned else stock(model, input_tokens, mm_features)


@_only_with_a_rate
def recompute(
    model: Any,
    stock: Method,
    input_ids: list[int] | Tensor,
    multimodal_embeddings: Sequence[Tensor],
    mrope_positions: Tensor,
    num_computed_tokens: int,
) -> tuple[list[Tensor], Tensor, int]:
    """Features without their channels, and the positions that these say."""
    with _syncing():
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        visual = (ids == model.config.image_token_id) | (ids == model.config.video_token_id)
        chunks = [positions.decode(features[:, -CHANNELS:]) for features in multimodal_embeddings]
        placed, after = positions.place(visual, chunks, mrope_positions, num_computed_tokens)
    return [features[:, :-CHANNELS] for features in multimodal_embeddings], placed, after - len(ids)


def _laid_out(input_tokens: list[int], items: Sequence[Item]) -> tuple[Tensor, int]:
    laid_out = positions.before_features(len(input_tokens), items)
    return laid_out, int(laid_out.max()) + 1 - len(input_tokens)


def _grids(model: Any, grid_thw: Tensor) -> list[tuple[int, int, int]]:
    """``(T, H, W)`` of each item in tokens."""
    merge = model.visual.spatial_merge_size
    return [(t, h // merge, w // merge) for t, h, w in grid_thw.tolist()]


def _grid_places(grid: tuple[int, int, int], device: torch.device, factor: float) -> Places:
    """The places of all tokens of a grid whose frames are ``factor`` positions apart."""
    steps = [torch.arange(n, device=device) for n in grid]
    steps[0] = torch.tensor([int(step * factor) for step in range(grid[0])], device=device)
    laid_out = torch.stack(torch.meshgrid(*steps, indexing="ij")).flatten(1)
    total = laid_out.shape[1]
    return Places(torch.arange(total, device=device), laid_out, 0, total, int(laid_out.max()) + 1)


def _with_places(features: Tensor, places: Places) -> Tensor:
    return torch.cat([features, positions.encode(places, features.dtype)], 1)


def _syncing() -> Any:
    """A context in which the host may wait for the device: sizes must be known."""
    from vllm.utils.gpu_sync_debug import gpu_sync_allowed

    return gpu_sync_allowed()


GRID = ("self", "video_embeds_split", "video_input")
IMAGE = ("self", "image_embeds_split", "image_input")
PROMPT = ("self", "input_tokens", "mm_features")
AGAIN = ("self", "input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens")
SYNC = Need("vllm.utils.gpu_sync_debug", "gpu_sync_allowed", ("first_only",))

QWEN_2_5 = "vllm.model_executor.models.qwen2_5_vl"
MODEL_2_5 = f"{QWEN_2_5}.Qwen2_5_VLForConditionalGeneration"
NEEDS_2_5 = [
    Need(QWEN_2_5, "compute_retained_tokens_count", COUNT, count),
    Need(MODEL_2_5, "_postprocess_image_embeds_evs", IMAGE, images),
    Need(MODEL_2_5, "_postprocess_video_embeds_evs", GRID, videos_2_5),
    Need(MODEL_2_5, "get_mrope_input_positions", PROMPT, prompt_positions_2_5),
    Need(MODEL_2_5, "recompute_mrope_positions", AGAIN, recompute),
    Need(MODEL_2_5, "iter_mm_grid_thw", ("self", "mm_features")),
    SYNC,
]
"""What pruning needs of Qwen2.5-VL."""

QWEN_3 = "vllm.model_executor.models.qwen3_vl"
MODEL_3 = f"{QWEN_3}.Qwen3VLForConditionalGeneration"
FINAL = ("self", "video_embeddings", "num_tokens_per_frame", "timestamps", "video_grid_thw", "retention_mask")
EXPANDED = (
    "self",
    "device",
    "seq_len",
    "video_grid_thw",
    "num_tokens_per_frame",
    "timestamps",
    "is_video_embed",
    "is_vision_start",
    "retention_mask",
)
NEEDS_3 = [
    Need(QWEN_3, "compute_retained_tokens_count", COUNT, count),
    Need(MODEL_3, "_postprocess_image_embeds_evs", IMAGE, images),
    Need(MODEL_3, "_postprocess_video_embeds_evs", GRID, videos_3),
    Need(MODEL_3, "get_mrope_input_positions", PROMPT, prompt_positions_3),
    Need(MODEL_3, "recompute_mrope_positions", AGAIN, recompute),
    Need(MODEL_3, "_get_expanded_positions", EXPANDED, channels_3),
    Need(MODEL_3, "_create_final_video_embeddings", FINAL),
    SYNC,
]
"""What pruning needs of Qwen3-VL and of the models that inherit from it."""
