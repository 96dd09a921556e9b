"""A prefix without some of its tokens: they are dropped as by a stage, but after the layers have run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from framefusion.hf import cache as caches
from framefusion.hf import cache_layers
from framefusion.hf.decoder import Decoder, attends, window_of
from framefusion.hf.prefix import Prefix
from framefusion.hf.slots import Slots, conversation_columns

_CPU = torch.device("cpu")


def without(decoder: Decoder, prefix: Prefix, columns: Tensor) -> Prefix:
    """The prefix without the tokens in some columns. What was attended to before stays in what attended to it.

    Columns that no layer holds any more are no longer counted, unless layers have windows, which are counted in
    columns.

    Args:
        decoder: that it was made with.
        prefix: stays as it is.
        columns: ``(n,)`` int64, ascending: of those that are held.
    """
    there = prefix.held.columns
    stays = ~torch.isin(there, columns)
    cache = caches.copied(prefix.cache)
    held_by: dict[int, Tensor] = {}
    for index, layer in enumerate(decoder.layers[: prefix.fork]):
        if not attends(layer):
            continue
        lender = decoder.lenders[index]
        kept = ~torch.isin(_columns(prefix.cache, lender, prefix.length), columns)
        held_by[index] = _columns(prefix.cache, index, prefix.length, lender)[kept]
        if lender == index:
            cache.layers[index] = cache_layers.gathered(cache.layers[index], kept.nonzero().squeeze(-1))
    made = replace(
        prefix,
        cache=cache,
        hidden=None if prefix.hidden is None else prefix.hidden[:, stays.to(prefix.hidden.device)],
        per_layer=None if prefix.per_layer is None else prefix.per_layer[:, stays.to(prefix.per_layer.device)],
        held=prefix.held.without(columns),
    )
    if any(window_of(layer) is not None for layer in decoder.layers):
        return _noted(decoder, made, held_by)
    counted = torch.cat([made.held.columns, *held_by.values()]).unique()
    counted = counted[counted >= 0]
    return _noted(
        decoder,
        replace(
            made,
            ids=made.ids[:, counted.to(made.ids.device)],
            positions=made.positions[:, counted.to(made.positions.device)],
            held=made.held.counting(counted),
            deepstack=None if made.deepstack is None else made.deepstack.at(counted),
        ),
        {index: torch.where(own >= 0, torch.searchsorted(counted, own), -1) for index, own in held_by.items()},
    )


def held_anywhere(decoder: Decoder, prefix: Prefix) -> Tensor:
    """``(n,)`` int64, ascending: the columns that some layer holds, more than the prefix ends with where
    stages lie between."""
    layers = [index for index in decoder.attending if index < prefix.fork and decoder.lenders[index] == index]
    return torch.cat(
        [prefix.held.columns, *(_columns(prefix.cache, index, prefix.length) for index in layers)]
    ).unique()


def bytes_by_column(decoder: Decoder, prefix: Prefix) -> Tensor:
    """``(N,)`` int64 on the CPU: bytes of the keys, values and hidden states of each column of a prefix; what recurrent
    layers hold is of none."""
    taken = torch.zeros(prefix.length, dtype=torch.long)
    for own in (prefix.hidden, prefix.per_layer):
        if own is not None and own.shape[1]:
            taken[prefix.held.columns] += own.nbytes // own.shape[1]
    for index in decoder.attending:
        if index < prefix.fork and decoder.lenders[index] == index:
            columns = _columns(prefix.cache, index, prefix.length)
            if len(columns):
                taken[columns] += cache_layers.nbytes(prefix.cache.layers[index]) // len(columns)
    return taken


def features(decoder: Decoder, prefix: Prefix, columns: Tensor) -> Tensor:
    """``(n, D)``: what tells tokens apart: their values in the first attention layer that holds them all.

    Values have no positions in them, as keys do, and in the first layer nothing of other tokens: copies are equal.

    Args:
        decoder: that the prefix was made with.
        prefix: what is held.
        columns: ``(n,)`` int64, ascending: of tokens that the prefix ends with.
    """
    for index in range(prefix.fork):
        if not attends(decoder.layers[index]) or decoder.lenders[index] != index:
            continue
        own = _columns(prefix.cache, index, prefix.length)
        if bool(torch.isin(columns, own).all()):
            # (1, heads, n, d)
            values = prefix.cache.layers[index].values[0]
            slots = torch.searchsorted(own, columns).to(values.device)
            return values[:, slots].transpose(0, 1).flatten(1)
    # Layers with windows hold the latest ones alone.
    assert prefix.hidden is not None
    slots = torch.searchsorted(prefix.held.columns, columns)
    return prefix.hidden[0, slots.to(prefix.hidden.device)]


def _columns(cache: Any, index: int, length: int, lender: int | None = None) -> Tensor:
    """``(n,)`` int64 on the CPU: the column in each slot of a layer, or of its lender, -1 where it does not see it."""
    held = cache_layers.kv_length(cache.layers[index if lender is None else lender])
    return conversation_columns(caches.slots_of(cache, index), held, length, 1, _CPU)[0]


def _noted(decoder: Decoder, prefix: Prefix, held_by: dict[int, Tensor]) -> Prefix:
    """Note on the cache which columns its layers hold; layers that hold the same ones share their slots."""
    known: dict[tuple[int, int], tuple[Tensor, Slots]] = {}
    for index, own in held_by.items():
        key, lender = (len(own), int(own.sum())), decoder.lenders[index]
        if key not in known or not known[key][0].equal(own):
            device = prefix.cache.layers[lender].keys.device
            known[key] = own, Slots(own[None].to(device), prefix.length, bool((own < 0).any()))
        caches.replaced(prefix.cache, index, known[key][1], borrowed=lender != index)
    return prefix
