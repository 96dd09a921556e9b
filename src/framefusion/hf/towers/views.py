"""Towers that take whole pictures of one size: SigLIP, with or without a class token CLIP, InternViT and DINOv2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framefusion.errors import StateError
from framefusion.hf.towers.base import Clip, Tower, modules_of
from framefusion.reduction.layout import Kind

_LAYERS = ("encoder.layers", "encoder.layer", "vision_model.encoder.layers", "transformer.encoder.layers")
"""Where such a tower keeps its blocks."""
_ATTENTION = ("self_attn", "attention")
"""What a block calls its attention."""


class ViewTower(Tower):
    """A unit is a patch; the frames of each video are views of the model's video input, ``(B, T, 3, H, W)``.

    Behind the last block every place has an output again, and what follows runs over all of them.
    """

    def module(self, model: Any) -> Any:
        return getattr(model, "vision_tower", None) or model.vision_model

    def blocks(self, tower: Any) -> Sequence[Any]:
        found = next((layers for path in _LAYERS if (layers := modules_of(tower, path)) is not None), None)
        return [] if found is None else list(found)

    def attention(self, block: Any) -> Any:
        return next(module for name in _ATTENTION if (module := modules_of(block, name)) is not None)

    def reason(self, tower: Any) -> str | None:
        blocks = self.blocks(tower)
        if not blocks or not any(hasattr(blocks[0], name) for name in _ATTENTION):
            return f"its vision tower is a {type(tower).__name__}, whose blocks nobody has told of"
        if not hasattr(self.attention(blocks[0]), "config"):
            return f"the attention of its {type(tower).__name__} has an implementation of its own"
        return None

    def ends(self, tower: Any) -> Sequence[Any]:
        return self.blocks(tower)[-1:]

    def extra(self, tower: Any) -> int:
        embeddings = modules_of(tower, "embeddings") or modules_of(tower, "vision_model.embeddings")
        if not any(hasattr(embeddings, name) for name in ("cls_token", "class_embedding")):
            return 0
        return 1 + int(getattr(tower.config, "num_register_tokens", 0) or 0)

    def clips(self, arguments: Mapping[str, Any], counts: Sequence[tuple[Kind, int]] | None, tower: Any) -> list[Clip]:
        return [clip_of("video", video, tower) for video in arguments["pixel_values_videos"]]


class FrameTower(ViewTower):
    """The frames of a video go in as images, among others: the prompt tells which belong together."""

    features: Kind = "image"
    by_layout = True

    def clips(self, arguments: Mapping[str, Any], counts: Sequence[tuple[Kind, int]] | None, tower: Any) -> list[Clip]:
        views = arguments["pixel_values"]
        if views.ndim == 5:
            # A batch of samples with views of zeros as padding, which the model leaves out.
            views = views.flatten(0, 1)
            views = views[(views != 0).flatten(1).any(1)]
        assert counts is not None
        if sum(count for _, count in counts) != len(views):
            raise StateError(
                f"the prompt has {sum(count for _, count in counts)} frames and views of images, but pixel_values has "
                f"{len(views)}; pass the inputs as the processor makes them, the whole prompt at once."
            )
        clips = []
        kinds, sizes = zip(*counts, strict=True)
        for kind, own in zip(kinds, views.split(sizes), strict=True):
            # Each view of an image is for itself.
            parts = [own] if kind == "video" else own.split(1)
            clips += [clip_of(kind, part, tower) for part in parts]
        return clips


def clip_of(kind: Kind, views: Tensor, tower: Any) -> Clip:
    """The patches of views ``(T, C, H, W)``, row by row."""
    patch = tower.config.patch_size
    height, width = (patch, patch) if isinstance(patch, int) else patch
    # (T, C, rows, cols, height, width): what does not fill a patch is not encoded.
    cut = views.unfold(2, height, height).unfold(3, width, width)
    units = cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    channels = torch.arange(views.shape[1]).repeat_interleave(height * width)
    return Clip(kind, units, channels, torch.zeros_like(channels))
