"""Gemma 3n: lies in the sequence as Gemma 3 does; each token has several states and inputs of each layer's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from framefusion.hf.families.gemma3 import Gemma3
from framefusion.hf.towers.base import Tower


class Gemma3n(Gemma3):
    """What merges, merges in all states of a token, and what goes by hidden states compares all of them.

    The last layers attend to the keys and values of earlier ones; a stage before one of them drops nothing from memory.
    """

    name = "Gemma 3n"
    model_classes = ("Gemma3nForConditionalGeneration", "Gemma3nModel")
    projector = ("embed_vision",)
    tower: Tower | None = None
    no_tower = "its tower is a convolutional network, without rows that could be left out"
    one_view: Mapping[str, Any] = MappingProxyType({})
    per_layer = ("per_layer_inputs", "per_layer_input")

    def tokens(self, config: Any) -> int:
        return int(config.vision_soft_tokens_per_image)

    def per_layer_inputs(self, decoder: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        made: Tensor = decoder.project_per_layer_inputs(arguments["inputs_embeds"], arguments["per_layer_inputs"])
        return made

    def tokens_of(self, hidden: Tensor) -> Tensor:
        # (S, B, n, D) to (B, n, S * D).
        return hidden.permute(1, 2, 0, 3).flatten(2)

    def hidden_of(self, tokens: Tensor, like: Tensor) -> Tensor:
        return tokens.unflatten(2, (len(like), -1)).permute(2, 0, 1, 3)
