"""What a KV cache has to know after a reduced prefill. It lives on the cache: several may be in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ATTRIBUTE = "_framefusion_layout"


@dataclass
class CacheLayout:
    """The reduced layers of a cache.

    Attributes:
        valid: per reduced layer ``(B, n)`` bool: the slots that the prefill filled, False for padding.
        padded: the reduced layers that have padding slots.
        length: columns of the prefill.
    """

    valid: dict[int, Tensor] = field(default_factory=dict)
    padded: set[int] = field(default_factory=set)
    length: int = 0


class ShortenedLayer(DynamicLayer):
    """A cache layer that counts the tokens dropped before it, so that every layer tells the same length.

    ``Cache.get_seq_length()`` asks layer 0, and positions of manual decoding and of continued conversations
    follow from it; lengths to crop to come from it too.

    Args:
        dropped: columns that the prefill had more than this layer.
    """

    def __init__(self, dropped: int) -> None:
        super().__init__()
        self.dropped = dropped

    def get_seq_length(self) -> int:
        held = super().get_seq_length()
        return held + self.dropped if held else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return super().get_seq_length() + query_length, self.dropped

    def crop(self, tokens: int) -> None:
        """Remove the last ``-tokens`` tokens, or cut to ``tokens`` counted with the dropped ones."""
        if tokens == 0 or self.keys is None or self.values is None:
            return
        end = self.keys.shape[-2] + tokens if tokens < 0 else tokens - self.dropped
        self.keys, self.values = self.keys[..., : max(end, 0), :], self.values[..., : max(end, 0), :]


def check(cache: Any) -> None:
    """Refuse caches whose layers cannot have lengths of their own.

    Raises:
        ValueError: with the kind of cache and what to use instead.
    """
    kinds = {type(layer) for layer in cache.layers} or {cache.layer_class_to_replicate}
    odd = next((kind for kind in kinds if kind not in (DynamicLayer, ShortenedLayer)), None)
    if odd is not None or getattr(cache, "offloading", False):
        what = "an offloaded cache" if odd is None else f"a cache of {odd.__name__} layers"
        raise ValueError(
            f"past_key_values is {what}; reduction needs a plain DynamicCache. Leave past_key_values out or pass "
            "DynamicCache()."
        )


def layout_of(cache: Any) -> CacheLayout | None:
    """The layout that a reduced prefill left on this cache, or None."""
    return getattr(cache, _ATTRIBUTE, None)


def start(cache: Any) -> None:
    """Forget what an earlier prefill left on a cache that is filled anew."""
    if layout_of(cache) is None:
        return
    delattr(cache, _ATTRIBUTE)
    cache.layers[:] = [DynamicLayer() if isinstance(layer, ShortenedLayer) else layer for layer in cache.layers]


def remember(cache: Any, layer: int, valid: Tensor, padded: bool, dropped: int) -> None:
    """Note before ``layer`` runs that it sees a shortened sequence.

    Args:
        cache: the cache that the layer will fill.
        layer: index of the decoder layer.
        valid: ``(B, n)`` bool.
        padded: whether ``valid`` has a False.
        dropped: columns that the prefill had more.
    """
    layout = layout_of(cache)
    if layout is None:
        layout = CacheLayout(length=valid.shape[1] + dropped)
        setattr(cache, _ATTRIBUTE, layout)
    layout.valid[layer] = valid
    if padded:
        layout.padded.add(layer)
    # A cache that makes its layers as they come has none for this layer yet.
    cache.layers[layer : layer + 1] = [ShortenedLayer(dropped)]


def held(cache: Any, layer: int) -> int:
    """Slots that a layer physically holds."""
    keys = cache.layers[layer].keys
    return 0 if keys is None or not keys.numel() else keys.shape[-2]
