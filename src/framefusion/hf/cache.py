"""What a KV cache has to know after a reduced prefill. It lives on the cache: several may be in flight."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from framefusion.errors import ArgumentError, StateError

try:
    from transformers.cache_utils import BaseQuantizedLayer
except ImportError:  # transformers before 5.15
    from transformers.cache_utils import QuantizedLayer as BaseQuantizedLayer

_ATTRIBUTE = "_framefusion_layout"


def of_call(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a decoder or of one of its layers, None without one.

    transformers 5.24 renamed ``past_key_values`` to ``cache``; a hook sees the name that the caller used.
    """
    cache = kwargs.get("cache")
    return kwargs.get("past_key_values") if cache is None else cache


def as_argument(function: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """``cache`` by the name that ``function`` of transformers has for it."""
    return {"cache" if "cache" in inspect.signature(function).parameters else "past_key_values": cache}


@dataclass(frozen=True)
class Slots:
    """What one shortened layer holds.

    Attributes:
        columns: ``(B, n)`` int64, ascending: the column of the conversation that each slot holds, -1 for padding.
        length: columns that the conversation had when these slots were filled; the slots after them hold the
            columns from there on, none left out.
        padded: whether any slot is padding.
    """

    columns: Tensor
    length: int
    padded: bool
    _ends: dict[int, Slots] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def floor(self) -> int:
        """Slots before those that hold the last columns of the conversation, one after the other, in every row."""
        slots = self.columns.shape[1]
        whole = self.columns == torch.arange(self.length - slots, self.length, device=self.columns.device)
        return slots - int(whole.all(0).flip(0).long().cumprod(0).sum())

    def last(self, count: int) -> Slots:
        """The last ``count`` of them; the same object each time, so that layers of one kind share it."""
        if count >= self.columns.shape[1]:
            return self
        if count not in self._ends:
            columns = self.columns[:, -count:]
            self._ends[count] = Slots(columns, self.length, bool((columns < 0).any()))
        return self._ends[count]


@dataclass
class CacheLayout:
    """The shortened layers of a cache.

    Attributes:
        layers: by index.
        steps: the latest decoding masks, with what they were made from: layers of one kind share one.
    """

    layers: dict[int, Slots] = field(default_factory=dict)
    steps: dict[Any, tuple[Any, Any]] = field(default_factory=dict)


class ShortenedLayer(DynamicLayer):
    """A cache layer that counts the tokens dropped before it, so that every layer tells the same length.

    ``Cache.get_seq_length()`` asks layer 0, and positions of manual decoding and of continued conversations
    follow from it; lengths to crop to come from it too. It also stands in for sliding-window layers: a window over
    what was kept is not the window over the conversation, so the mask cuts it. Of a prefill it then holds no more
    than the layer it replaces would, which is enough for every later window.

    Args:
        dropped: columns that the conversation had more than this layer.
        original: the empty layer that takes its place again when the cache is filled anew.
    """

    def __init__(self, dropped: int, original: DynamicLayer) -> None:
        super().__init__()
        self.dropped, self.original = dropped, original
        self.limit: int | None = None
        """Slots that are left of the prefill about to run; None for all."""
        self.floor = 0
        """Slots that cropping cannot reach into: those behind them hold the same columns in every row."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        if self.limit is not None:
            self.keys, self.values = keys[..., -self.limit :, :], values[..., -self.limit :, :]
            self.floor, self.limit = self.limit, None
        return keys, values

    def reset(self) -> None:
        super().reset()
        self.dropped, self.limit, self.floor = 0, None, 0

    def get_seq_length(self) -> int:
        held = super().get_seq_length()
        return held + self.dropped if held else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        held = super().get_seq_length()
        return held + query_length, self.dropped if held else 0

    def crop(self, tokens: int) -> None:
        """Remove the last ``-tokens`` tokens, or cut to ``tokens`` counted with the dropped ones.

        Raises:
            RuntimeError: more than the text behind the reduced part of the prompt would go, but not all.
        """
        if tokens == 0 or self.keys is None or self.values is None:
            return
        end = self.keys.shape[-2] + tokens if tokens < 0 else tokens - self.dropped
        if end < self.floor and tokens > -self.get_seq_length():
            raise StateError(
                "crop reaches into a reduced prompt, of which this layer no longer holds every token; crop no further "
                "than the text behind the last video or image, or fill a new cache."
            )
        self.keys, self.values = self.keys[..., : max(end, 0), :], self.values[..., : max(end, 0), :]


class ShortenedStaticLayer(StaticLayer):
    """A static cache layer that counts the tokens dropped before it, see :class:`ShortenedLayer`."""

    dropped: int = 0

    def reset(self) -> None:
        super().reset()
        self.dropped = 0

    def get_seq_length(self) -> Any:
        held = super().get_seq_length()
        return torch.where(held > 0, held + self.dropped, 0) if isinstance(held, Tensor) else held


class ShortenedStaticSlidingLayer(StaticSlidingWindowLayer):
    """A static sliding-window layer that counts the tokens dropped before it, see :class:`ShortenedLayer`.

    It holds the last slots, as many as its window, and so all that any later window still sees.
    """

    dropped: int = 0

    def reset(self) -> None:
        super().reset()
        self.dropped = 0

    def get_seq_length(self) -> int:
        held = super().get_seq_length()
        return held + self.dropped if held else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of the mask over the conversation, as the layers that were not shortened tell them."""
        seen, window = self.get_seq_length(), self.max_cache_len
        first = max(seen - window + 1, 0)
        if seen >= window:
            return window + query_length - 1, first
        return max(seen + query_length, window), first


_USE = "Leave past_key_values and cache_implementation out, or pass DynamicCache(config=model.config)."
_SHORTENED: dict[type, Any] = {
    StaticLayer: ShortenedStaticLayer,
    StaticSlidingWindowLayer: ShortenedStaticSlidingLayer,
}
_ORIGINAL: dict[type, Any] = {shortened: original for original, shortened in _SHORTENED.items()}
# A layer of linear attention holds no slots, but a state of one size.
_OWN_LENGTHS = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    ShortenedLayer,
    *_SHORTENED,
    *_ORIGINAL,
    LinearAttentionLayer,
)


def check(cache: Any, *, filled: bool, before_first: bool) -> None:
    """Refuse caches whose layers cannot have lengths of their own.

    Args:
        cache: as passed to the decoder.
        filled: whether it holds earlier turns.
        before_first: whether layer 0 may be shortened.

    Raises:
        ValueError: with the kind of cache and what to use instead.
    """
    if getattr(cache, "offloading", False):
        raise ArgumentError(f"past_key_values is an offloaded cache, which was never verified with reduction. {_USE}")
    kinds = {type(layer) for layer in cache.layers} or {cache.layer_class_to_replicate}
    for kind in kinds:
        if kind not in _OWN_LENGTHS and not issubclass(kind, BaseQuantizedLayer):
            raise ArgumentError(
                f"past_key_values is a cache of {kind.__name__} layers, which reduction cannot follow. {_USE}"
            )
        if filled and issubclass(kind, StaticLayer):
            raise ArgumentError(
                "a video or image came in a later turn of a conversation held in a static cache; reduction cannot "
                f"follow that there. {_USE}"
            )
        if before_first and issubclass(kind, BaseQuantizedLayer):
            raise ArgumentError(
                "past_key_values is a quantized cache, which reduction before layer 0 would miscount; start keep at "
                "layer 1 with merge=False, or use a DynamicCache()."
            )


def is_static(cache: Any) -> bool:
    """Whether the layers of a cache have a fixed size."""
    return any(isinstance(layer, StaticLayer) for layer in cache.layers)


def layout_of(cache: Any) -> CacheLayout | None:
    """The layout that a reduced prefill left on this cache, or None."""
    return getattr(cache, _ATTRIBUTE, None)


def start(cache: Any) -> None:
    """Forget what an earlier prefill left on a cache that is filled anew."""
    if layout_of(cache) is None:
        return
    delattr(cache, _ATTRIBUTE)
    for index, layer in enumerate(cache.layers):
        if type(layer) in _ORIGINAL:
            layer.__class__ = _ORIGINAL[type(layer)]
        elif isinstance(layer, ShortenedLayer):
            cache.layers[index] = layer.original


def remember(cache: Any, layer: int, slots: Slots) -> None:
    """Note before ``layer`` runs what it will hold once it has run."""
    layout = layout_of(cache)
    if layout is None:
        layout = CacheLayout()
        setattr(cache, _ATTRIBUTE, layout)
    # A cache that makes its layers as they come has none for this layer yet.
    while len(cache.layers) <= layer:
        cache.layers.append(cache.layer_class_to_replicate())
    own: Any = cache.layers[layer]
    limit = _limit(own)
    if limit is not None:
        limit = limit if slots.columns.shape[1] > limit else None
        slots = slots if limit is None else slots.last(limit)
    dropped = slots.length - slots.columns.shape[1]
    if isinstance(own, StaticLayer):
        # Its buffers may be known by address to a compiled graph, so the layer itself stays.
        static: Any = own
        static.__class__ = _SHORTENED.get(type(own), type(own))
        static.dropped = dropped
        if not static.is_sliding:
            # Every slot of the buffers, so that a compiled step only has to gather.
            tail = torch.arange(slots.length, static.max_cache_len + dropped, device=slots.columns.device)
            columns = torch.cat([slots.columns, tail.expand(len(slots.columns), -1)], 1)
            slots = Slots(columns, slots.length, slots.padded)
    elif isinstance(own, ShortenedLayer):
        own.dropped, own.limit, own.floor = dropped, limit, slots.floor
    elif not isinstance(own, BaseQuantizedLayer):
        shortened = ShortenedLayer(dropped, _empty_like(own))
        shortened.limit, shortened.floor = limit, slots.floor
        if own.is_initialized:
            shortened.lazy_initialization(own.keys, own.values)
            shortened.keys, shortened.values = own.keys, own.values
        cache.layers[layer] = shortened
    layout.layers[layer] = slots
    # Made for what the layers held before.
    layout.steps.clear()


def held(cache: Any, layer: int) -> int:
    """Slots that a layer physically holds."""
    own = cache.layers[layer] if layer < len(cache.layers) else None
    if own is None:
        return 0
    if isinstance(own, ShortenedLayer | DynamicSlidingWindowLayer):
        return 0 if own.keys is None or not own.keys.numel() else own.keys.shape[-2]
    return int(own.get_seq_length())


def columns_held(cache: Any, layer: int, batch: int, device: torch.device) -> Tensor:
    """``(B, held)`` int64: the column of the conversation in each slot of a layer, -1 for padding of a prefill."""
    count, layout = held(cache, layer), layout_of(cache)
    slots = None if layout is None else layout.layers.get(layer)
    if slots is None:
        # A sliding-window layer holds the last columns only.
        last = int(cache.layers[layer].get_seq_length()) if count else 0
        return torch.arange(last - count, last, device=device).expand(batch, -1)
    prefilled = slots.columns[:, :count].to(device)
    tail = torch.arange(slots.length, slots.length + count - prefilled.shape[1], device=device)
    return torch.cat([prefilled, tail.expand(batch, -1)], dim=1)


def static_columns(own: Any, slots: Slots, queries: int) -> Tensor:
    """``(B, n)`` int64: for each slot that a shortened static layer hands to the attention of the next ``queries``
    tokens, its column in the mask that the model makes for them; negative for none."""
    if not own.is_sliding:
        return slots.columns
    prefilled, seen, window = slots.columns.shape[1], own.cumulative_length_int, own.max_cache_len
    width = window + queries - 1 if seen >= window else max(seen + queries, window)
    slot = torch.arange(width, device=slots.columns.device) + max(seen + queries - width, 0)
    columns = slots.columns[:, slot.clamp_max(prefilled - 1)]
    columns = torch.where(slot < prefilled, columns, slots.length + slot - prefilled)
    return columns - own.get_mask_sizes(queries)[1]


def is_shortened_static(own: Any) -> bool:
    """Whether a layer is a static one that a reduced prefill shortened."""
    return type(own) in _ORIGINAL


def _limit(layer: Any) -> int | None:
    """Slots that a sliding-window layer keeps for later: its window without the token that comes next."""
    kind = layer.original if isinstance(layer, ShortenedLayer) else layer
    if not isinstance(kind, DynamicSlidingWindowLayer) or getattr(kind, "record_past", False):
        return None
    return max(kind.sliding_window - 1, 1)


def _empty_like(layer: DynamicLayer) -> DynamicLayer:
    if not isinstance(layer, DynamicSlidingWindowLayer):
        return DynamicLayer()
    empty = DynamicSlidingWindowLayer(sliding_window=layer.sliding_window)
    empty.record_past = getattr(layer, "record_past", False)
    return empty
