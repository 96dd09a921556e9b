"""The layers of a KV cache that a reduced prefill shortened: they count the tokens that were dropped as well.

``Cache.get_seq_length()`` asks layer 0, and positions of manual decoding and of continued conversations follow from
it; lengths to crop to come from it too. So every layer reports the length of the conversation, whatever it holds.
"""

from __future__ import annotations

from copy import copy
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

from framefusion.errors import StateError
from framefusion.hf.slots import Slots

try:
    from transformers.cache_utils import BaseQuantizedLayer
except ImportError:  # transformers before 5.15
    from transformers.cache_utils import QuantizedLayer as BaseQuantizedLayer


try:
    from transformers.cache_utils import DummyLayer

    _NOTHING: tuple[type, ...] = (DummyLayer,)
except ImportError:  # before 5.24 caches have no layers for those that borrow keys and values
    _NOTHING = ()


class ShortenedLayer(DynamicLayer):
    """A dynamic cache layer that counts the tokens dropped before it.

    It also stands in for sliding-window layers: a window over what was kept is not the window over the conversation,
    so the mask cuts it. Of a prefill it then holds no more than the layer it replaces would, which is enough for every
    later window.

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
        length = super().get_seq_length()
        return length + self.dropped if length else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = super().get_seq_length()
        return length + query_length, self.dropped if length else 0

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
        length = super().get_seq_length()
        return torch.where(length > 0, length + self.dropped, 0) if isinstance(length, Tensor) else length


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
        length = super().get_seq_length()
        return length + self.dropped if length else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of the mask over the conversation, as the layers that were not shortened report them."""
        seen, window = self.get_seq_length(), self.max_cache_len
        first = max(seen - window + 1, 0)
        if seen >= window:
            return window + query_length - 1, first
        return max(seen + query_length, window), first


def _check_static_crop(layer: Any, tokens: int) -> None:
    length = int(layer.get_seq_length()) - layer.dropped
    if layer.is_initialized and -length < tokens < 0 and length + tokens < layer.floor:
        raise _cropped_too_far()


def _cropped_too_far() -> StateError:
    return StateError(
        "crop reaches into a reduced prompt, of which this layer no longer holds every token; crop no further than the "
        "text behind the last video or image, or fill a new cache."
    )


_SHORTENED: dict[type, Any] = {
    StaticLayer: ShortenedStaticLayer,
    StaticSlidingWindowLayer: ShortenedStaticSlidingLayer,
}
_ORIGINAL: dict[type, Any] = {shortened: original for original, shortened in _SHORTENED.items()}
# A layer of linear attention holds no slots, but a state of one size; one that borrows keys and values holds nothing.
_OWN_LENGTHS = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    ShortenedLayer,
    *_SHORTENED,
    *_ORIGINAL,
    LinearAttentionLayer,
    *_NOTHING,
)


def is_quantized(kind: type) -> bool:
    """Whether layers of this kind hold packed keys and values."""
    return issubclass(kind, BaseQuantizedLayer)


def has_own_length(kind: type) -> bool:
    """Whether a layer of this kind may hold fewer tokens than its neighbours."""
    return kind in _OWN_LENGTHS or is_quantized(kind)


def is_shortened_static(layer: Any) -> bool:
    """Whether a layer is a static one that a reduced prefill shortened."""
    return type(layer) in _ORIGINAL


def shortened(layer: Any, slots: Slots) -> tuple[Any, Slots]:
    """The layer that goes into the place of ``layer`` before a prefill of which it will hold ``slots``.

    Returns:
        the layer, which may be the same one, and what it will hold: a sliding-window layer the last slots, a static
        one those of its whole buffers.
    """
    limit = _prefill_limit(layer)
    if limit is not None:
        limit = limit if slots.columns.shape[1] > limit else None
        slots = slots if limit is None else slots.last(limit)
    dropped = slots.length - slots.columns.shape[1]
    if isinstance(layer, StaticLayer):
        return _shortened_static(layer, slots, dropped)
    if is_quantized(type(layer)):
        return layer, slots
    if not isinstance(layer, ShortenedLayer):
        own, layer = layer, ShortenedLayer(dropped, _empty_like(layer))
        if own.is_initialized:
            layer.lazy_initialization(own.keys, own.values)
            layer.keys, layer.values = own.keys, own.values
    layer.dropped, layer.limit, layer.floor = dropped, limit, slots.floor
    return layer, slots


def _shortened_static(layer: Any, slots: Slots, dropped: int) -> tuple[Any, Slots]:
    # Its buffers may be known by address to a compiled graph, so the layer itself stays.
    layer.__class__ = _SHORTENED.get(type(layer), type(layer))
    layer.dropped, layer.floor = dropped, slots.floor
    if not layer.is_sliding:
        # Every slot of the buffers, (B, max_cache_len), so that a compiled step only has to gather.
        tail = torch.arange(slots.length, layer.max_cache_len + dropped, device=slots.columns.device)
        columns = torch.cat([slots.columns, tail.expand(len(slots.columns), -1)], 1)
        slots = Slots(columns, slots.length, slots.padded)
    return layer, slots


def restored(layer: Any) -> Any:
    """The layer that goes into the place of an emptied one, as the cache had it before any reduction."""
    if type(layer) in _ORIGINAL:
        layer.__class__ = _ORIGINAL[type(layer)]
    return layer.original if isinstance(layer, ShortenedLayer) else layer


def _prefill_limit(layer: Any) -> int | None:
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


def copied(layer: Any, rows: int) -> Any:
    """A layer that goes on by itself, with ``rows`` times the one row of ``layer``.

    Keys and values of dynamic layers are never written into, and shared; recurrent states are.
    """
    made = copy(layer)
    recurrent = isinstance(layer, LinearAttentionLayer)
    for name, value in vars(layer).items():
        if recurrent and isinstance(value, dict):
            setattr(made, name, {key: _rows(own, rows, recurrent) for key, own in value.items()})
        else:
            setattr(made, name, _rows(value, rows, recurrent) if name in ("keys", "values") or recurrent else value)
    if isinstance(layer, ShortenedLayer):
        made.original = copy(layer.original)
    return made


def _rows(value: Any, rows: int, own: bool) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or not value.numel():
        return value
    expanded = value.expand(rows, *value.shape[1:]) if len(value) == 1 else value
    return expanded.clone() if own else expanded


def emptied(layer: Any) -> ShortenedLayer:
    """A shortened layer without anything in the place of a dynamic one."""
    return ShortenedLayer(0, _empty_like(layer))


def gathered(layer: Any, slots: Tensor) -> ShortenedLayer:
    """A layer with some of the slots ``(n,)`` of a dynamic one."""
    made = layer if isinstance(layer, ShortenedLayer) else emptied(layer)
    keys, values = layer.keys, layer.values
    if made is not layer:
        made.lazy_initialization(keys, values)
    made.keys, made.values = keys[..., slots.to(keys.device), :], values[..., slots.to(values.device), :]
    return made


def nbytes(layer: Any) -> int:
    """Bytes of what a layer holds."""
    held = [own for value in vars(layer).values() for own in (value.values() if isinstance(value, dict) else [value])]
    return sum(own.nbytes for own in held if isinstance(own, Tensor))


def kv_length(layer: Any) -> int:
    """Slots that a layer of a cache physically holds; 0 for None."""
    if layer is None:
        return 0
    if isinstance(layer, ShortenedLayer | DynamicSlidingWindowLayer):
        return 0 if layer.keys is None or not layer.keys.numel() else layer.keys.shape[-2]
    return int(layer.get_seq_length())


def static_columns(layer: Any, slots: Slots, queries: int, *, added: bool = False) -> Tensor:
    """``(B, n)`` int64: for each slot that a shortened static layer hands to the attention of the next ``queries``
    tokens, its column in the mask that the model makes for them; negative for none.

    Args:
        layer: of the cache.
        slots: what the prefill left in it.
        queries: tokens.
        added: whether the layer holds them already, as that of a lender does.
    """
    if not layer.is_sliding:
        return slots.columns
    seen = layer.cumulative_length_int - (queries if added else 0)
    prefilled, window = slots.columns.shape[1], layer.max_cache_len
    width = window + queries - 1 if seen >= window else max(seen + queries, window)
    # (width,): the slots of the prefill, then one for each token behind it; the buffers hold the last of them.
    slot = torch.arange(width, device=slots.columns.device) + max(seen + queries - width, 0)
    columns = slots.columns[:, slot.clamp_max(prefilled - 1)]
    columns = torch.where(slot < prefilled, columns, slots.length + slot - prefilled)
    return columns - max(layer.get_seq_length() - (queries if added else 0) - window + 1, 0)
