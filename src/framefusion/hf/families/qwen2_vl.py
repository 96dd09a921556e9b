"""Qwen2-VL: one run of tokens a video or image, in raster order (t, h, w), with M-RoPE positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.hf.towers.base import Tower
from framefusion.hf.towers.grids import GridTower
from framefusion.reduction.layout import Kind, VisualItem, VisualLayout

Grid = tuple[int, int, int]
"""``(T, H, W)`` in tokens."""


class Qwen2VL(Family):
    """The call brings the grids; ``generate()`` encodes ahead and drops them, but the positions still hold them."""

    name = "Qwen2-VL"
    model_classes: tuple[str, ...] = ("Qwen2VLForConditionalGeneration", "Qwen2VLModel")
    placeholder = "video or image token; one run per video or image"
    verified = "masked oracle on a random-weight model"
    tells_encoder = True
    tower: Tower | None = GridTower()
    projector: tuple[str, ...] = ("visual.merger", "visual.deepstack_merger_list", "visual.merger_list")
    frames_apart = True

    def encoder_attention(self, model: Any) -> nn.Module | None:
        """Of the encoder's last layer, whose frames attend to themselves."""
        return model.visual.blocks[-1].attn if self.tells_encoder else None

    def encoder_scores(
        self, model: Any, kind: Kind, received: Sequence[Tensor], arguments: Mapping[str, Any]
    ) -> Tensor | None:
        """The mean over the patches that merge into a token."""
        merged = torch.cat([part.flatten() for part in received])
        merged = merged.unflatten(0, (-1, model.visual.spatial_merge_size**2)).mean(1)
        return self.in_order(model, merged, arguments[f"{kind}_grid_thw"])

    def in_order(self, model: Any, tokens: Tensor, grids: Tensor) -> Tensor:
        """The tokens as they lie in the prompt, of those in the order in which the encoder has them."""
        return tokens

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        assert call.input_ids is not None
        tokens = self.tokens(model.config, call)
        grids = {kind: self.grids(model.config, call, kind) for kind in tokens}
        sizes = {kind: iter(call.encoded_sizes(kind) or []) for kind in tokens}
        layouts = []
        for b in range(len(call.input_ids)):
            items: list[VisualItem] = []
            for kind, token in tokens.items():
                columns = call.placeholders(b, token)
                source = grids[kind] or self.measured(call, b, columns, sizes[kind])
                items += take_items(kind, columns, source, f"input_ids[{b}]")
            layouts.append(layout_of(items))
        return layouts

    def tokens(self, config: Any, call: Call) -> dict[Kind, int]:
        """The placeholder of each kind that came with the call."""
        known: dict[Kind, int] = {"video": config.video_token_id, "image": config.image_token_id}
        return {kind: token for kind, token in known.items() if call.has(kind)}

    def grids(self, config: Any, call: Call, kind: Kind) -> Iterator[Grid] | None:
        """The grids of all videos or images of the batch, in order; None where the call does not tell them."""
        times, merge = self.temporal_merge(config, kind), config.vision_config.spatial_merge_size
        grids = call.grids(kind, f"{kind}_grid_thw")
        return None if grids is None else iter([(t // times, h // merge, w // merge) for t, h, w in grids])

    def measured(self, call: Call, b: int, columns: Tensor, sizes: Iterator[int]) -> Iterator[Grid]:
        """The grids of sample ``b`` when the call brings none.

        Args:
            call: with the positions.
            b: the sample.
            columns: ``(n,)`` int64, its placeholders of one kind.
            sizes: tokens of each video or image of the batch, in order; as many are taken as ``columns`` hold.
        """
        if call.position_ids is None or call.position_ids.ndim != 3:
            return
        first = 0
        for size in sizes:
            # The temporal positions tell nothing: frames may share one.
            h, w = spread(call.position_ids, b, columns[first : first + size])
            yield (size // (h * w), h, w) if size % (h * w) == 0 else (0, h, w)
            first += size


def spread(positions: Tensor, b: int, columns: Tensor) -> tuple[int, int]:
    """Height and width over which the M-RoPE positions ``(3 or 4, B, N)`` of some columns of a sample reach."""
    if not len(columns):
        return 1, 1
    rows, cols = positions[-2:, b].cpu()[:, columns]
    return int(rows.max() - rows.min()) + 1, int(cols.max() - cols.min()) + 1
