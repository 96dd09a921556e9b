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
    Cache,
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


class Slots:
    """What one shortened layer holds. Layers of one kind share one, by which they are known.

    No dataclass, which dynamo would hash by its fields.

    Args:
        columns: ``(B, n)`` int64, ascending: the column of the conversation that each slot holds, -1 for padding.
        length: columns that the conversation had when these slots were filled; the slots after them hold the
            columns from there on, none left out.
        padded: whether any slot is padding.
    """

    def __init__(self, columns: Tensor, length: int, padded: bool) -> None:
        self.columns, self.length, self.padded = columns, length, padded
        self._ends: dict[int, Slots] = {}

    @cached_property
    def floor(self) -> int:
        """Slots before those that hold the last columns of the conversation, one after the other, in every row."""
        slots = self.columns.shape[1]
        whole = self.columns == torch.arange(self.length - slots, self.length, device=self.columns.device)
        return slots - int(whole.all(0).flip(0).long().cumprod(0).sum())

    def rows(self, take: Callable[[Tensor], Tensor]) -> Slots:
        """The same of other rows, see :meth:`CacheLayout.rows`."""
        columns = take(self.columns)
        return Slots(columns, self.length, self.padded and bool((columns < 0).any()))

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
        expected: the layer whose mask is ready, so that it may read the cache; None between forward passes.
    """

    layers: dict[int, Slots] = field(default_factory=dict)
    steps: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    expected: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its masks anew."""
        return {"layers": self.layers, "steps": {}, "expected": None}

    def rows(self, take: Callable[[Tensor], Tensor]) -> None:
        """Follow a change of the batch.

        Args:
            take: ``(B, n)`` to ``(B', n)``, as it was done to keys and values.
        """
        taken = {slots: slots.rows(take) for slots in self.layers.values()}
        self.layers = {layer: taken[slots] for layer, slots in self.layers.items()}
        self.steps.clear()


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

    def check_crop(self, tokens: int) -> None:
        """Refuse what :meth:`crop` cannot do, before any layer is cropped."""
        if self.keys is not None and self._end(tokens) < self.floor and tokens > -self.get_seq_length():
            raise _cropped_too_far()

    def crop(self, tokens: int) -> None:
        """Remove the last ``-tokens`` tokens, or cut to ``tokens`` counted with the dropped ones.

        Raises:
            RuntimeError: more than the text behind the reduced part of the prompt would go, but not all.
        """
        if tokens == 0 or self.keys is None or self.values is None:
            return
        self.check_crop(tokens)
        end = max(self._end(tokens), 0)
        self.keys, self.values = self.keys[..., :end, :], self.values[..., :end, :]

    def _end(self, tokens: int) -> int:
        """Slots that are left after cropping."""
        assert self.keys is not None
        return int(self.keys.shape[-2]) + tokens if tokens <= 0 else tokens - self.dropped


def _cropped_too_far() -> StateError:
    return StateError(
        "crop reaches into a reduced prompt, of which this layer no longer holds every token; crop no further than the "
        "text behind the last video or image, or fill a new cache."
    )


class ShortenedStaticLayer(StaticLayer):
    """A static cache layer that counts the tokens dropped before it, see :class:`ShortenedLayer`."""

    dropped: int = 0
    floor: int = 0

    def reset(self) -> None:
        super().reset()
        self.dropped, self.floor = 0, 0

    def check_crop(self, tokens: int) -> None:
        """As :meth:`ShortenedLayer.check_crop`."""
        _check_static_crop(self, tokens)

    def get_seq_length(self) -> Any:
        held = super().get_seq_length()
        return torch.where(held > 0, held + self.dropped, 0) if isinstance(held, Tensor) else held


class ShortenedStaticSlidingLayer(StaticSlidingWindowLayer):
    """A static sliding-window layer that counts the tokens dropped before it, see :class:`ShortenedLayer`.

    It holds the last slots, as many as its window, and so all that any later window still sees.
    """

    dropped: int = 0
    floor: int = 0

    def reset(self) -> None:
        super().reset()
        self.dropped, self.floor = 0, 0

    def check_crop(self, tokens: int) -> None:
        """As :meth:`ShortenedLayer.check_crop`."""
        _check_static_crop(self, tokens)

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


def _check_static_crop(layer: Any, tokens: int) -> None:
    held = int(layer.get_seq_length()) - layer.dropped
    if layer.is_initialized and -held < tokens < 0 and held + tokens < layer.floor:
        raise _cropped_too_far()


class _Reduced:
    """What a cache does differently while some of its layers are shortened; goes before the class of the cache.

    Its layers hold different tokens, which only the hooks of an attached reduction know how to mask. So they announce
    each layer before it runs, and everything else that would read or fill the cache is refused ahead of any change.
    Whatever changes the rows of the batch changes the layout too.
    """

    _framefusion_layout: CacheLayout
    layers: list[Any]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        _admitted(self._framefusion_layout, layer_idx)
        self._framefusion_layout.expected = None
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)  # type: ignore[misc]

    def has_previous_state(self, layer_idx: int | None = None, *args: Any, **kwargs: Any) -> Any:
        # A layer of linear attention asks this before it changes its state.
        if layer_idx is not None:
            _admitted(self._framefusion_layout, layer_idx)
        return super().has_previous_state(layer_idx, *args, **kwargs)  # type: ignore[misc]

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        start(self)

    def crop(self, tokens: int) -> None:
        for layer in self.layers:
            if hasattr(layer, "check_crop"):
                layer.check_crop(tokens)
        super().crop(tokens)  # type: ignore[misc]
        if not int(self.get_seq_length()):  # type: ignore[attr-defined]
            start(self)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._framefusion_layout.rows(lambda columns: columns.index_select(0, beam_idx.to(columns.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._framefusion_layout.rows(lambda columns: columns.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._framefusion_layout.rows(lambda columns: columns[torch.as_tensor(indices, device=columns.device)])

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (type(self).__bases__[1],), self.__dict__


_KINDS: dict[type, Any] = {}
"""The class of a cache while some of its layers are shortened, by its own class."""


def _reduced(kind: type) -> Any:
    if kind not in _KINDS:
        _KINDS[kind] = type(f"Reduced{kind.__name__}", (_Reduced, kind), {})
    return _KINDS[kind]


def _rebuilt(kind: type) -> Any:
    """A copy to be filled with the state of a cache, see :meth:`object.__reduce_ex__`."""
    cls = _reduced(kind)
    return object.__new__(cls)


def _admitted(layout: CacheLayout, layer: int) -> None:
    if layout.expected != layer:
        raise StateError(
            "past_key_values was filled while a reduction was attached, and its layers hold different tokens, which "
            "only a model with a reduction attached can read; call framefusion.attach() again (settings may differ), "
            "or fill a new cache."
        )


def announce(cache: Any, layer: int) -> None:
    """Let ``layer``, which is about to run under masks of ours, read a cache with shortened layers."""
    layout = None if cache is None else layout_of(cache)
    if layout is not None:
        layout.expected = layer


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


def check_rows(cache: Any, rows: int) -> None:
    """Refuse a call for another number of rows than a cache with shortened layers holds, before any layer runs.

    Raises:
        ValueError: with both numbers.
    """
    layout = layout_of(cache)
    held = rows if layout is None else next((len(slots.columns) for slots in layout.layers.values()), rows)
    if held != rows:
        raise ArgumentError(
            f"past_key_values was filled for a batch of {held}, but the call has {rows} rows; repeat it with its "
            "batch_repeat_interleave(), or start again with an empty cache."
        )


def is_paged(cache: Any) -> bool:
    """Whether this is the store of continuous batching, which holds the tokens of many requests in pages."""
    return cache is not None and not isinstance(cache, Cache)


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
    if isinstance(cache, _Reduced):
        cache.__class__ = type(cache).__bases__[1]
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
        cache.__class__ = _reduced(type(cache))
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
        static.dropped, static.floor = dropped, slots.floor
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
