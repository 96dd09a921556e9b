"""Settings as JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from numbers import Integral
from typing import Any

from framefusion.errors import ArgumentError
from framefusion.reduction.budgets import Novelty
from framefusion.reduction.flat import FLAT, SWITCHES, nested
from framefusion.reduction.merging import DROPPED, Merging
from framefusion.reduction.rules import from_parts, name_of
from framefusion.reduction.segmentation import SEGMENTATIONS, DynamicProgramming
from framefusion.reduction.selectors import SELECTORS
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.sources import Relevance
from framefusion.reduction.towers import TOWERS

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "segmentation": SEGMENTATIONS,
    "selector": SELECTORS,
    "dropped": DROPPED,
    "tower": TOWERS,
}
"""Of the fields whose rule has a name in a registry; an object says it under ``"rule"``, beside its parameters."""

PARAMETERS: dict[str, Any] = {"relevance": Relevance, "merging": Merging, "novelty": Novelty}
"""Of the fields whose rule is always the same one."""

LISTS = {"tower.std"}
"""Parameters of rules that are lists."""


def to_plain(settings: FrameFusion) -> dict[str, Any]:
    """All fields of settings as JSON values; layers become texts, and the stages of a cost are spelt out."""
    plain = {field.name: _plain(field.name, getattr(settings, field.name)) for field in fields(settings)}
    if settings.stages is None and settings.cost is not None and settings.merging is None:
        plain["stages"] = _plain("stages", settings.steps)
    return plain


def from_plain(plain: Any) -> FrameFusion:
    """Settings from what :func:`to_plain` made of them. Fields may be left out, and so may parameters of a rule.

    Raises:
        ValueError: an unknown field, or a value that :class:`~framefusion.reduction.settings.FrameFusion` refuses;
            names the field.
    """
    known = {field.name for field in fields(FrameFusion)}
    check_names(plain, known, set(), "settings")
    values, cut = rules_from_plain(plain), plain.get("segmentation")
    if set(plain) | {"tower"} == known and isinstance(cut, Mapping) and "sudden" not in cut:
        values["segmentation"] = _before_sudden_changes(values["segmentation"])
    return _made(values)


def _before_sudden_changes(segmentation: Any) -> Any:
    """What the rule of complete settings was that say nothing of sudden changes: they were no cuts yet."""
    return replace(segmentation, sudden=None) if isinstance(segmentation, DynamicProgramming) else segmentation


def rules_from_plain(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Values of which the objects that stand for rules have become these.

    Raises:
        ValueError: there is no such rule, or it has no such parameter; names the field.
    """
    values = dict(plain)
    for name in values.keys() & (REGISTRIES.keys() | PARAMETERS.keys()):
        value = values[name]
        if not isinstance(value, Mapping):
            _single(name, value)
            continue
        parts, kind = dict(value), PARAMETERS.get(name)
        for parameter, own in parts.items():
            if f"{name}.{parameter}" not in LISTS:
                _single(f"{name}.{parameter}", own)
        if kind is None:
            rule = parts.pop("rule", None)
            if not isinstance(rule, str) or rule not in REGISTRIES[name]:
                known = ", ".join(map(repr, REGISTRIES[name]))
                raise ArgumentError(f"{name}.rule must be one of {known}, got {rule!r}.")
            kind = REGISTRIES[name][rule]
            if not (parts or is_dataclass(kind)):
                values[name] = rule
                continue
        try:
            values[name] = from_parts(name, kind, parts)
        except OverflowError as error:
            raise ArgumentError(f"{name} has a number that is too large: {error}") from error
    return values


def from_flat(plain: Any) -> FrameFusion:
    """Settings from a file of schema 1, which had a flat name for each parameter, used or not.

    Raises:
        ValueError: as :func:`from_plain`; or what they meant cannot be said any more.
    """
    known = _FIRST | {"stages", "dropped_lower_bound", *_LATER}
    check_names(plain, known, set(), "settings")
    values = dict(plain)
    written = set(values) | {"stages", "dropped_lower_bound"}
    spent_in_stages = values.get("cost") is not None and not values.get("merge")
    if written == known and spent_in_stages:
        values.setdefault("stages", _TWO_STAGES)
    if written == known - _LATER.keys():
        if spent_in_stages:
            raise ArgumentError(
                "cost: these settings were written when cost meant three stages, today it means two; calibrate again"
            )
        values |= _LATER
    if written >= _FIRST:
        values["segment_sudden"] = None
    if values.get("dropped") == "merge" and "similarity_lower_bound" in values:
        # One field was the bound of both.
        values.setdefault("dropped_lower_bound", values["similarity_lower_bound"])
    for name in set(values) - {"keep", "cost", "stages"}:
        _single(name, values[name])
    return _made(nested(FrameFusion, values, lenient=True))


_FIRST = {
    *("cost", "keep", "segmentation", "budget_rule", "relevance", "selector", "dropped", "seed", "images"),
    *(FLAT.keys() - {"gamma", "later_frames", "dropped_lower_bound", "segment_sudden"}),
    *SWITCHES,
}
"""What complete settings always had."""
_LATER: dict[str, Any] = {"gamma": None, "later_frames": 1.0}
"""Fields that they did not always have, and what everything was then."""
_TWO_STAGES = ((0.0, 1.0), (2 / 3, 0.25))
"""What ``stages`` were, once there were those fields, before they could be chosen."""


def _made(values: dict[str, Any]) -> FrameFusion:
    keep = values.get("keep")
    values["keep"] = [_by_layer(item) for item in keep] if isinstance(keep, list) else _by_layer(keep)
    for name in set(values) - {"keep", "cost", "stages", *REGISTRIES, *PARAMETERS}:
        _single(name, values[name])
    try:
        return FrameFusion(**values)
    except OverflowError as error:
        raise ArgumentError(f"settings have a number that is too large: {error}") from error


def _single(name: str, value: Any) -> None:
    if isinstance(value, (list, dict)):
        raise ArgumentError(f"{name} must be a single value, got {value!r}")


def _plain(name: str, value: Any) -> Any:
    if is_dataclass(value):
        rule = {"rule": name_of(value, REGISTRIES[name])} if name in REGISTRIES else {}
        return rule | {own.name: _plain(own.name, getattr(value, own.name)) for own in fields(value)}
    if isinstance(value, Mapping):
        return {str(int(layer)): _plain(name, share) for layer, share in value.items()}
    if isinstance(value, tuple):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _by_layer(keep: Any) -> Any:
    """``{layer: share}`` has texts as keys in JSON."""
    if not isinstance(keep, dict):
        return keep
    for layer in keep:
        if not (layer.isascii() and layer.isdigit() and len(layer) < 10 and str(int(layer)) == layer):
            raise ArgumentError(f"keep: layer {layer!r} must be a whole number, 0 or more")
    return {int(layer): share for layer, share in keep.items()}


def check_names(given: Any, known: set[str], required: set[str], where: str) -> None:
    """Refuse what is no object, or has other names than those known, or lacks one required."""
    if not isinstance(given, dict):
        raise ArgumentError(f"{where} must be an object, got {given!r}")
    unknown, missing = sorted(set(given) - known), sorted(required - set(given))
    if unknown:
        raise ArgumentError(f"{where} has an unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if missing:
        raise ArgumentError(f"{where} has no {missing[0]!r}")
