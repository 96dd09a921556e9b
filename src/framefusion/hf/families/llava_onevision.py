"""LLaVA-OneVision: one run of ``T * ceil(g / 2)**2`` tokens a video and one newline token at its end."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framefusion.errors import ArgumentError
from framefusion.hf.families.base import Call, Family, layout_of, take_items
from framefusion.hf.towers.views import ViewTower
from framefusion.reduction.layout import Kind, Span, VisualItem, VisualLayout, runs


class LlavaOnevision(Family):
    """A video is a run of square frames. An image is a base view and, if it is large, the rows of a bigger grid, each
    with a newline: no plain grid.
    """

    name = "LLaVA-OneVision"
    model_classes: tuple[str, ...] = ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel")
    placeholder = "video or image token; one run per video or image; the newline at a video's end stays, as text"
    verified = "masked oracle on a random-weight model; bundled trained checkpoint"
    tells_encoder = True
    tower = ViewTower()
    projector = ("multi_modal_projector",)
    frames_apart = True
    newlines = 1
    """Tokens behind a video that carry its placeholder, but show none of it."""

    def encoder_attention(self, model: Any) -> nn.Module | None:
        """Of SigLIP: the pooling head's where there is one (FastVID), else that of the last layer (HoliTom). Other
        towers, with a class token among the patches, are not told of."""
        tower = model.vision_tower
        layers = getattr(getattr(tower, "encoder", None), "layers", None)
        if not self.tells_encoder or not layers or model.config.vision_feature_select_strategy != "full":
            return None
        head = getattr(tower, "head", None)
        pooling = getattr(head, "attention", None)
        return pooling if isinstance(pooling, nn.MultiheadAttention) else layers[-1].self_attn

    def encoder_scores(
        self, model: Any, kind: Kind, received: Sequence[Tensor], arguments: Mapping[str, Any]
    ) -> Tensor | None:
        """Pooled over each frame as the features are. The views of an image are cut and joined in other ways."""
        return model.apply_pooling(torch.cat(list(received))[..., None]).flatten() if kind == "video" else None

    def side(self, config: Any) -> int:
        """Rows and columns of tokens of a frame."""
        return math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)

    def layouts(self, model: Any, call: Call) -> list[VisualLayout]:
        config = model.config
        side, frames = self.side(config), 0
        if call.encoded("video") is not None:
            frames = (call.encoded("video").pooler_output.shape[1] - self.newlines) // side**2
        elif call.has("video"):
            frames = call.arguments["pixel_values_videos"].shape[1]
        assert call.input_ids is not None
        found = [runs(row == config.image_token_id) if call.has("image") else [] for row in call.input_ids.cpu()]
        lengths = iter(call.encoded_sizes("image") or image_lengths(model, call, found))
        layouts = []
        for b, row in enumerate(call.input_ids.cpu()):
            items: list[VisualItem] = []
            if call.has("video"):
                items += self._videos(row == config.video_token_id, (frames, side, side), b)
            if call.has("image"):
                columns = call.placeholders(b, config.image_token_id)
                items += take_items("image", columns, ((1, 1, length) for length in lengths), f"input_ids[{b}]")
            layouts.append(layout_of(items))
        return layouts

    def _videos(self, placeholders: Tensor, grid: tuple[int, int, int], b: int) -> list[VisualItem]:
        length, items = math.prod(grid) + self.newlines, []
        for first, end in runs(placeholders):
            if (end - first) % length:
                raise ArgumentError(
                    f"input_ids[{b}] has a run of {end - first} video tokens, which is no multiple of the {length} "
                    f"tokens of a video of {grid[0]} frames; pass the inputs as the processor makes them, the whole "
                    "prompt at once."
                )
            items += [VisualItem.run("video", grid, start) for start in range(first, end, length)]
        return items


def image_lengths(model: Any, call: Call, found: list[list[Span]]) -> list[int]:
    """Tokens of each image of the batch: its run, unless images stand next to each other in one run."""
    lengths = [end - first for mine in found for first, end in mine]
    sizes = call.arguments.get("image_sizes")
    if sizes is None or len(sizes) <= len(lengths):
        return lengths
    # Another family's file, whose import a video need not wait for.
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    counts = call.arguments.get("batch_num_images")
    together = [1] * len(sizes) if counts is None else [n for n in counts.tolist() for _ in range(n)]
    config, meta = model.config, torch.device("meta")
    cells = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    # The model's own arithmetic, on features without values: views, unpadding and newlines.
    views = [
        image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size) if n == 1 else 1
        for size, n in zip(sizes.tolist(), together, strict=True)
    ]
    given = {
        "image_features": [torch.empty(count, cells, 1, device=meta) for count in views],
        "image_sizes": sizes.tolist(),
        "image_newline": torch.empty(1, device=meta),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None),
    }
    known = inspect.signature(model.pack_image_features).parameters
    features, _ = model.pack_image_features(**{name: value for name, value in given.items() if name in known})
    return [len(feature) for feature in features]
