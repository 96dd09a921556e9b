"""Videos encoded a group of frames at a time, so that what the vision encoder needs beside its output stays bounded.

For families whose encoder never looks from one frame to another (``frames_apart``): every frame's features are those of
the whole video, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from framefusion.errors import ArgumentError, ArgumentTypeError, StateError
from framefusion.hf import methods
from framefusion.hf.families import FAMILIES, UnsupportedModelError, find, unwrapped
from framefusion.hf.towers import running

BOTH = (
    "a tower that leaves something out of videos sees all their frames, so they cannot be encoded in groups of "
    "tower_frames; leave one of the two out"
)

_grouping: WeakSet[nn.Module] = WeakSet()
"""Models that encode in groups, without the head."""

_UNUSED = ("last_hidden_state", "hidden_states", "attentions")
"""Of the groups' outputs only what decoders read is put together."""


def encode_in_groups(model: Any, frames: int) -> Callable[[], None]:
    """Have a model encode videos so many frames at a time from now on; photographs as before.

    Args:
        model: a supported model; its ``get_video_features`` is replaced.
        frames: at least 1; of a family with temporal patches, rounded up to whole ones.

    Returns:
        the undo.

    Raises:
        TypeError, ValueError: ``frames`` is no whole number, or below 1.
        UnsupportedModelError: frames are not encoded apart in this family, or nobody has shown that they are.
        StateError: a reduction with a ``tower`` is attached.
    """
    if isinstance(frames, bool) or not isinstance(frames, int):
        raise ArgumentTypeError(f"frames must be a whole number, got {frames!r}")
    if frames < 1:
        raise ArgumentError(f"frames must be at least 1, got {frames}")
    own = unwrapped(model).base_model
    family = find(own)
    if not family.frames_apart or not hasattr(own, "get_video_features"):
        known = ", ".join(other.name for other in FAMILIES if other.frames_apart)
        raise UnsupportedModelError(
            f"videos of {family.name} cannot be encoded in groups of frames; families that can: {known}"
        )
    if own in running.attached:
        raise StateError(BOTH)
    config = getattr(own.config, "vision_config", own.config)
    patch = getattr(config, "temporal_patch_size", 1) or 1
    make = partial(_grouped, -(-frames // patch), getattr(family, "newlines", 0))
    replaced = methods.replace(own, "get_video_features", make)
    _grouping.add(own)

    def undo() -> None:
        _grouping.discard(own)
        replaced()

    return undo


def is_grouping(model: Any) -> bool:
    """Whether a model, without its head, encodes videos in groups."""
    return model in _grouping


def _grouped(size: int, newlines: int, encode: Callable[..., Any]) -> Callable[..., Any]:
    """``get_video_features`` in groups of ``size`` frames or temporal patches."""

    def features(pixel_values_videos: Tensor, video_grid_thw: Tensor | None = None, **more: Any) -> Any:
        if video_grid_thw is None:
            # (B, T, C, H, W)
            parts = [_bare(encode(part.contiguous(), **more)) for part in pixel_values_videos.split(size, dim=1)]
            return parts[0] if len(parts) == 1 else _behind(parts, newlines)
        groups, counts = _groups(video_grid_thw, size)
        if len(groups) == len(video_grid_thw):
            return encode(pixel_values_videos, video_grid_thw=video_grid_thw, **more)
        rows = [int(t * h * w) for t, h, w in groups.tolist()]
        # What has an entry for each video, such as merge sizes, has one for each group.
        own = {name: _repeated(value, counts) for name, value in more.items()}
        parts = []
        for i, pixels in enumerate(pixel_values_videos.split(rows)):
            given = {name: value[i : i + 1] if isinstance(value, Tensor) else value for name, value in own.items()}
            parts.append(_bare(encode(pixels, video_grid_thw=groups[i : i + 1], **given)))
        return _joined(parts, counts)

    return features


def _groups(grids: Tensor, size: int) -> tuple[Tensor, list[int]]:
    """``(G, 3)`` grids of the groups of all videos, in order; and how many groups each video has."""
    found, counts = [], []
    for t, h, w in grids.tolist():
        cut = [min(size, t - first) for first in range(0, t, size)]
        found += [(own, h, w) for own in cut]
        counts.append(len(cut))
    return grids.new_tensor(found), counts


def _repeated(value: Any, counts: Sequence[int]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.repeat_interleave(torch.tensor(counts, device=value.device), dim=0)


def _bare(output: Any) -> Any:
    """An output without what nobody reads, so that it is free before the next group is encoded."""
    for name in _UNUSED:
        if name in output:
            output[name] = None
    return output


def _behind(parts: Sequence[Any], newlines: int) -> Any:
    """One output for groups of the same videos; a newline at the end of a video is that of its last group."""
    features = [part.pooler_output[:, : -newlines or None] for part in parts[:-1]]
    return type(parts[0])(pooler_output=torch.cat([*features, parts[-1].pooler_output], dim=1))


def _joined(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """One output for several videos, of groups one behind the other; of several layers, one for each."""
    more: dict[str, Any] = {}
    for name, value in parts[0].items():
        if name != "pooler_output" and value is not None:
            more[name] = [_by_video(layer, counts) for layer in zip(*(part[name] for part in parts), strict=True)]
    return type(parts[0])(pooler_output=_by_video([part.pooler_output for part in parts], counts), **more)


def _by_video(groups: Sequence[Any], counts: Sequence[int]) -> Any:
    """The features of the groups of several videos: all in one tensor where a group's are, else one for each video."""
    if isinstance(groups[0], Tensor):
        return torch.cat(list(groups))
    own = iter(groups)
    return type(groups[0])(torch.cat([next(own)[0] for _ in range(count)]) for count in counts)
