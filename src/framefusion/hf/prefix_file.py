"""A prefix as named tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from framefusion.errors import ArgumentError
from framefusion.hf import cache as caches
from framefusion.hf import cache_layers
from framefusion.hf.decoder import Decoder, attends
from framefusion.hf.deepstack import DeepStack
from framefusion.hf.prefix import Prefix
from framefusion.hf.slots import Slots
from framefusion.reduction.held import Held, Stage
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.schedule import Cascade
from framefusion.reduction.settings import FrameFusion

Tensors = dict[str, Tensor]
_PLAN = ("layers", "first", "adaptive", "allowance", "ratio_lower_bound", "finished", "merging")


def taken_apart(prefix: Prefix) -> tuple[Tensors, dict[str, Any]]:
    """What :func:`put_together` makes the same prefix of, but for its settings."""
    held, tensors = prefix.held, {"ids": prefix.ids, "positions": prefix.positions, "last": prefix.last}
    for name in ("hidden", "groups", "per_layer"):
        _keep(tensors, name, getattr(prefix, name))
    layers = [_layer_apart(tensors, index, prefix) for index in range(prefix.fork)]
    if prefix.deepstack is not None:
        tensors["deepstack"] = prefix.deepstack.row
        tensors |= {f"deepstack.{index}": own for index, own in enumerate(prefix.deepstack.features)}
    for name in ("columns", "item", "frame", "patch"):
        tensors[f"layout.{name}"] = getattr(held.layout, name)
    for name in ("seen", "columns", "segments", "merged_into", "encoder"):
        _keep(tensors, f"held.{name}", getattr(held, name))
    for index, stage in enumerate(held.stages):
        tensors[f"stage.{index}.kept"] = stage.kept[0]
        _keep(tensors, f"stage.{index}.merged", None if stage.merged_into is None else stage.merged_into[0])
    values = {
        "fork": prefix.fork,
        "end": prefix.end,
        "layers": layers,
        "length": held.length,
        "grids": held.layout.grids,
        "kinds": held.layout.kinds,
        "stages": [[stage.layer, stage.milliseconds] for stage in held.stages],
        "plans": [_plan_apart(plan) for plan in held.plans],
        "budgets": held.budgets,
        "visual_per_layer": held.visual_per_layer,
        "tokens_per_layer": held.tokens_per_layer,
        "uncounted": held.uncounted,
    }
    return {name: own.detach().cpu().contiguous().clone() for name, own in tensors.items()}, values


def put_together(decoder: Decoder, settings: FrameFusion, tensors: Tensors, values: Mapping[str, Any]) -> Prefix:
    """The prefix that :func:`taken_apart` took apart, for the same model.

    Raises:
        LookupError, TypeError, ValueError: something is missing or is none of a prefix.
    """
    device = decoder.module.device
    kinds = tuple(values["kinds"])
    layout = VisualLayout(
        tensors["layout.columns"],
        tensors["layout.item"],
        tensors["layout.frame"],
        tensors["layout.patch"],
        tuple((t, h, w) for t, h, w in values["grids"]),
        kinds,
    )
    if len(layout) and int(layout.item.max()) >= len(layout.grids):
        raise ArgumentError(f"there are tokens of {int(layout.item.max()) + 1} items, but {len(layout.grids)} grids")
    stages = []
    for index, (layer, milliseconds) in enumerate(values["stages"]):
        merged = tensors.get(f"stage.{index}.merged")
        kept = [tensors[f"stage.{index}.kept"]]
        stages.append(Stage(layer, kept, None if merged is None else [merged], milliseconds))
    visual, columns = values.get("uncounted", (0, 0))
    held = Held(
        values["length"],
        layout,
        tensors["held.seen"],
        tensors["held.columns"],
        tensors.get("held.segments"),
        tensors["held.merged_into"],
        tuple(stages),
        tuple(_plan_of(plan) for plan in values["plans"]),
        tuple(values["budgets"]),
        tensors.get("held.encoder"),
        tuple(values["visual_per_layer"]),
        tuple(values["tokens_per_layer"]),
        # Of older files nothing is known to be missing.
        (visual, columns),
    )
    cache = DynamicCache(config=decoder.module.config)
    shared: dict[str, Slots] = {}
    for index, layer in enumerate(values["layers"]):
        _fill(cache, index, layer, tensors, device, shared, decoder)
    deepstack = None
    if "deepstack" in tensors:
        count = sum(name.startswith("deepstack.") for name in tensors)
        features = [tensors[f"deepstack.{index}"].to(device) for index in range(count)]
        deepstack = DeepStack(tensors["deepstack"] >= 0, features)
    hidden, per_layer = tensors.get("hidden"), tensors.get("per_layer")
    return Prefix(
        settings=settings,
        fork=values["fork"],
        ids=tensors["ids"].to(device),
        positions=tensors["positions"].to(device),
        last=tensors["last"].to(device),
        end=values["end"],
        cache=cache,
        hidden=None if hidden is None else hidden.to(device),
        held=held,
        groups=tensors.get("groups"),
        deepstack=deepstack,
        per_layer=None if per_layer is None else per_layer.to(device),
    )


def _keep(tensors: Tensors, name: str, value: Tensor | None) -> None:
    if value is not None:
        tensors[name] = value


def _layer_apart(tensors: Tensors, index: int, prefix: Prefix) -> dict[str, Any]:
    """One layer of the cache: its tensors by name, and the rest."""
    layers, slots = prefix.cache.layers, caches.slots_of(prefix.cache, index)
    layer = layers[index] if index < len(layers) else None
    name = f"layer.{index}"
    rest: dict[str, Any] = {}
    if slots is not None:
        # Layers that hold the same columns share them.
        sharing = next(i for i in range(index + 1) if caches.slots_of(prefix.cache, i) is slots)
        tensors[f"slots.{sharing}"] = slots.columns
        rest |= {"slots": sharing, "length": slots.length, "padded": slots.padded}
    if layer is None:
        return rest
    if getattr(layer, "keys", None) is not None:
        tensors |= {f"{name}.keys": layer.keys, f"{name}.values": layer.values}
        seen = getattr(layer, "cumulative_length", None)
        return rest if seen is None else {**rest, "seen": int(seen)}
    for attribute, value in vars(layer).items():
        parts = value if isinstance(value, dict) else {None: value}
        for key, own in parts.items():
            place = attribute if key is None else f"{attribute}.{key}"
            if isinstance(own, Tensor):
                tensors[f"{name}.{place}"] = own
            elif isinstance(own, bool | int | None):
                rest[place] = own
    return rest


def _fill(
    cache: Any,
    index: int,
    rest: Mapping[str, Any],
    tensors: Tensors,
    device: torch.device,
    shared: dict[str, Slots],
    decoder: Decoder,
) -> None:
    """Put what was held into a layer of an empty cache."""
    if decoder.lenders[index] != index:
        if "slots" in rest:
            caches.replaced(cache, index, _slots_of(rest, tensors, device, shared), borrowed=True)
        return
    layer, name = cache.layers[index], f"layer.{index}"
    if not attends(decoder.layers[index]):
        _fill_recurrent(layer, name, rest, tensors, device)
        return
    keys, values = tensors[f"{name}.keys"].to(device), tensors[f"{name}.values"].to(device)
    if "slots" in rest:
        layer = cache.layers[index] = cache_layers.emptied(layer)
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    if "seen" in rest:
        layer.cumulative_length = rest["seen"]
    if "slots" in rest:
        caches.replaced(cache, index, _slots_of(rest, tensors, device, shared))


def _slots_of(rest: Mapping[str, Any], tensors: Tensors, device: torch.device, shared: dict[str, Slots]) -> Slots:
    """The slots of a layer; layers that hold the same columns share them."""
    place = f"slots.{rest['slots']}"
    if place not in shared:
        shared[place] = Slots(tensors[place].to(device), rest["length"], rest["padded"])
    return shared[place]


def _fill_recurrent(layer: Any, name: str, rest: Mapping[str, Any], tensors: Tensors, device: torch.device) -> None:
    own_tensors = {place: own for place, own in tensors.items() if place.startswith(f"{name}.")}
    found = {place.removeprefix(f"{name}."): own.to(device) for place, own in own_tensors.items()}
    for place, own in {**rest, **found}.items():
        attribute, _, key = place.partition(".")
        if key:
            getattr(layer, attribute)[int(key)] = own
        else:
            setattr(layer, attribute, own)
    state = next(iter(found.values()), None)
    if state is not None:
        layer.device, layer.dtype = state.device, state.dtype


def _plan_apart(plan: Any) -> dict[str, Any] | None:
    """A plan that spends as it goes; every other one follows from the settings."""
    return {name: getattr(plan, name) for name in _PLAN} if isinstance(plan, Cascade) else None


def _plan_of(state: Mapping[str, Any] | None) -> Cascade | None:
    if state is None:
        return None
    plan = object.__new__(Cascade)
    plan.__dict__.update({name: state[name] for name in _PLAN})
    return plan
