"""What a KV cache has to know after a reduced prefill. It lives on the cache: several may be in flight."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from framefusion.errors import StateError
from framefusion.hf import cache_layers
from framefusion.hf.slots import CacheLayout, Slots

_ATTRIBUTE = "_framefusion_layout"


class _Reduced:
    """What a cache does differently while some of its layers are shortened; goes before the class of the cache.

    Its layers hold different tokens, which only the hooks of an attached reduction know how to mask. So they announce
    each layer before it runs, and everything else that would read or fill the cache is refused ahead of any change.
    Whatever changes the rows of the batch changes the layout too.
    """

    _framefusion_layout: CacheLayout
    layers: list[Any]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        _check_announced(self._framefusion_layout, layer_idx)
        self._framefusion_layout.expected = None
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)  # type: ignore[misc]

    def has_previous_state(self, layer_idx: int | None = None, *args: Any, **kwargs: Any) -> Any:
        # A layer of linear attention asks this before it changes its state, or for the state itself.
        if layer_idx is not None:
            _check_announced(self._framefusion_layout, layer_idx)
        return super().has_previous_state(layer_idx, *args, **kwargs)  # type: ignore[misc]

    def get_conv_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        _check_announced(self._framefusion_layout, layer_idx)
        return super().get_conv_state(layer_idx, *args, **kwargs)  # type: ignore[misc]

    def __iter__(self) -> Iterator[Any]:
        raise StateError(
            "past_key_values was filled while a reduction was attached; its keys and values alone do not tell which "
            "tokens each layer holds, so a cache made of them would be read wrongly. Copy it by copy.deepcopy(), or "
            "fill a new cache."
        )

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


def _check_announced(layout: CacheLayout, layer: int) -> None:
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


def is_paged(cache: Any) -> bool:
    """Whether this is the store of continuous batching, which holds the tokens of many requests in pages."""
    return cache is not None and not isinstance(cache, Cache)


def is_static(cache: Any) -> bool:
    """Whether the layers of a cache have a fixed size."""
    return any(isinstance(layer, StaticLayer) for layer in cache.layers)


def layout_of(cache: Any) -> CacheLayout | None:
    """The layout that a reduced prefill left on this cache, or None."""
    return getattr(cache, _ATTRIBUTE, None)


def slots_of(cache: Any, layer: int) -> Slots | None:
    """What a reduced prefill left in a layer; None when it dropped nothing there."""
    layout = layout_of(cache)
    return None if layout is None else layout.layers.get(layer)


def rows_of(cache: Any) -> int | None:
    """Rows of the batch that a cache with shortened layers holds; None without such layers."""
    layout = layout_of(cache)
    return None if layout is None else next((len(slots.columns) for slots in layout.layers.values()), None)


def kv_length(cache: Any, layer: int) -> int:
    """Slots that a layer physically holds."""
    return cache_layers.kv_length(cache.layers[layer] if layer < len(cache.layers) else None)


def start(cache: Any) -> None:
    """Forget what an earlier prefill left on a cache that is filled anew."""
    if layout_of(cache) is None:
        return
    delattr(cache, _ATTRIBUTE)
    if isinstance(cache, _Reduced):
        cache.__class__ = type(cache).__bases__[1]
    for index, layer in enumerate(cache.layers):
        cache.layers[index] = cache_layers.restored(layer)


def _laid_out(cache: Any) -> CacheLayout:
    """The layout of a cache, which has one from now on."""
    layout = layout_of(cache)
    if layout is None:
        layout = CacheLayout()
        setattr(cache, _ATTRIBUTE, layout)
        cache.__class__ = _reduced(type(cache))
    return layout


def copied(cache: Any, rows: int = 1) -> Any:
    """A cache that goes on by itself from what a cache of one row holds.

    Args:
        cache: left as it is; keys and values are shared until either one is added to.
        rows: of the batch that goes on.
    """
    made = copy(cache)
    made.layers = [cache_layers.copied(layer, rows) for layer in cache.layers]
    layout = layout_of(cache)
    if layout is not None:
        setattr(made, _ATTRIBUTE, replace(layout, layers=dict(layout.layers), steps={}, expected=None))
        layout_of(made).rows(lambda columns: columns.expand(rows, -1))  # type: ignore[union-attr]
    return made


def replaced(cache: Any, layer: int, slots: Slots, *, borrowed: bool = False) -> None:
    """Note what a shortened layer holds from now on, or what one that borrows from it sees."""
    if not borrowed:
        own = cache.layers[layer]
        own.dropped, own.floor = slots.length - slots.columns.shape[1], slots.floor
    _laid_out(cache).layers[layer] = slots


def behind(cache: Any, prefix: Any, pads: Tensor) -> Any:
    """Note on a cache which beginning of a prompt it was made of, see :class:`CacheLayout`; returns the cache."""
    layout = _laid_out(cache)
    layout.prefix, layout.pads = prefix, pads
    return cache


def prefix_of(cache: Any) -> Any:
    """The beginning of a prompt that a cache was made of, or None."""
    layout = None if cache is None else layout_of(cache)
    return None if layout is None else layout.prefix


def remember(cache: Any, layer: int, slots: Slots) -> None:
    """Note before ``layer`` runs what it will hold once it has run."""
    layout = _laid_out(cache)
    # A cache that makes its layers as they come has none for this layer yet.
    while len(cache.layers) <= layer:
        cache.layers.append(cache.layer_class_to_replicate())
    cache.layers[layer], layout.layers[layer] = cache_layers.shortened(cache.layers[layer], slots)
    # Made for what the layers held before.
    layout.steps.clear()


def remember_borrowed(cache: Any, layer: int, lender: int, slots: Slots) -> None:
    """Note before ``layer`` runs, which attends to the keys and values of another one, what it sees of them.

    Args:
        cache: that has been told of the lender.
        layer: that has none of its own.
        lender: the one that has.
        slots: all that the lender hands over, -1 in the columns of those that the layer does not see.
    """
    layout = _laid_out(cache)
    held = layout.layers[lender]
    layout.layers[layer] = slots.as_held(held)
