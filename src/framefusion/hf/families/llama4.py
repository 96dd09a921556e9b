"""Llama 4: one run of tokens a tile of an image, with separators between, and the view of the whole at the end."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from framefusion.hf.families.pictures import Picture, PictureFamily, of_groups
from framefusion.reduction.layout import Span


class Llama4(PictureFamily):
    """A large image is its tiles and the view of the whole; a frame is one view.

    Most layers attend in chunks of a fixed number of columns, and the others scale their queries by how many slots they
    count before them, from as many on. Both would go by what is left of a prompt, so reduction ends where they begin.
    """

    name = "Llama 4"
    model_classes = ("Llama4ForConditionalGeneration",)
    no_tower = "its tower has the class token behind the patches, and turns queries and keys by complex numbers"
    one_view = MappingProxyType({"max_patches": 1})
    placeholder = "image token; one run per tile of an image; one run per frame, times between"

    def longest(self, config: Any) -> int | None:
        chunk = config.attention_chunk_size if "chunked_attention" in config.layer_types else None
        tuned = config.floor_scale - 1 if config.attn_temperature_tuning and not all(config.no_rope_layers) else None
        return min((limit for limit in (chunk, tuned) if limit is not None), default=None)

    def projected(self, model: Any, output: Any) -> Any:
        return model.multi_modal_projector(output.last_hidden_state.flatten(0, 1))

    def pictures(
        self, model: Any, row: list[int], found: list[Span], sizes: Iterator[int], where: str
    ) -> list[Picture]:
        groups: list[list[Span]] = []
        for span in found:
            before = groups[-1][-1][1] if groups else 0
            if groups and model.config.boi_token_id not in row[before : span[0]]:
                groups[-1].append(span)
            else:
                groups.append([span])
        return of_groups(groups, square=True)
