"""How much stays, as it is said: a share, shares by layer, the stages of a cost. Checked, and read from texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from framefusion.checks import check_number, is_whole
from framefusion.errors import ArgumentError

Stages = tuple[tuple[float, float], ...]

AUTO = "auto"
"""``stages`` that fit the model."""


def checked_amount(name: str, value: Any) -> Any:
    """``cost`` or ``keep`` for one sample or, as a tuple, for several; None stays None.

    Raises:
        ValueError: it is none; names the argument.
    """
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ArgumentError(f"{name} is an empty sequence; give one value for each sample of the batch.")
        return tuple(_share(f"{name}[{i}]", item) for i, item in enumerate(value))
    return _share(name, value)


def _share(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and name.startswith("keep"):
        return _by_layer(name, value)
    check_number(name, value, 0, 1, open_below=True)
    return value


def _by_layer(name: str, keep: Mapping[Any, Any]) -> dict[int, float]:
    if not keep:
        raise ArgumentError(f"{name} is an empty mapping; give at least one {{layer: share}}, or keep=1.0 to keep all.")
    for layer, share in keep.items():
        if not is_whole(layer) or layer < 0:
            raise ArgumentError(f"{name}: layer {layer!r} must be a whole number, 0 or more.")
        check_number(f"{name}[{layer}]", share, 0, 1, open_below=True)
    stages = dict(sorted(keep.items()))
    shares = list(stages.items())
    for (above, more), (layer, share) in pairwise(shares):
        if share > more:
            raise ArgumentError(
                f"{name}[{layer}]={share} is more than {name}[{above}]={more}; shares are of the original tokens and "
                "cannot grow with depth."
            )
    return stages


def checked_stages(stages: Any) -> Stages:
    """Stages of a cost as plain pairs; refuses others by name."""
    if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
        raise ArgumentError(
            f"stages must be 'auto' or (depth, share) pairs such as ((0, 1), (2 / 3, 0.25)), got {stages!r}."
        )
    for i, pair in enumerate(stages):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ArgumentError(f"stages[{i}] must be a pair of depth and share, got {pair!r}.")
        depth, share = pair
        check_number(f"the depth of stages[{i}]", depth, 0, 1)
        if depth == 1:
            raise ArgumentError(f"the depth of stages[{i}] must be below 1, which is behind the last layer.")
        check_number(f"the share of stages[{i}]", share, 0, 1, open_below=True)
    pairs = tuple((float(depth), float(share)) for depth, share in stages)
    if pairs[0][1] != 1:
        raise ArgumentError(
            f"the share of stages[0] must be 1, got {pairs[0][1]:g}: shares are of what the first stage keeps, and the "
            "cost says how much that is."
        )
    for i, ((depth, share), (later, less)) in enumerate(pairwise(pairs), start=1):
        if later <= depth:
            raise ArgumentError(f"depths of stages must ascend, but that of stages[{i}], {later:g}, follows {depth:g}.")
        if less > share:
            raise ArgumentError(f"shares of stages cannot grow, but that of stages[{i}], {less:g}, follows {share:g}.")
    return pairs


def parse_stages(text: str) -> Stages | Literal["auto"]:
    """``stages`` from a text: ``"auto"``, or depth and share of each stage, ``"0:1,0.67:0.25"`` or ``"0:1+0.67:0.25"``.

    Raises:
        ValueError: it is neither, or :func:`checked_stages` refuses the pairs.
    """
    if text == AUTO:
        return "auto"
    try:
        pairs = [part.split(":") for part in text.replace("+", ",").split(",")]
        stages = [(float(depth), float(share)) for depth, share in pairs]
    except ValueError:
        raise ArgumentError(
            f"stages must be auto or DEPTH:SHARE pairs such as 0:1,0.67:0.25 (or 0:1+0.67:0.25), got {text!r}."
        ) from None
    return checked_stages(stages)


def stages_text(stages: Stages) -> str:
    """Stages as :func:`parse_stages` reads them, rounded to four digits."""
    return ",".join(f"{depth:.4g}:{share:.4g}" for depth, share in stages)


def parse_keep(text: str) -> float | dict[int, float]:
    """``keep`` from a text: ``"0.2"``, or layer and share of each stage, ``"2:0.5,14:0.1"`` or ``"2:0.5+14:0.1"``.

    Raises:
        ValueError: it is neither, or names a layer twice; what it says follows the name of the option.
    """
    try:
        if ":" not in text:
            return float(text)
        pairs = [part.split(":") for part in text.replace("+", ",").split(",")]
        stages = {int(layer): float(share) for layer, share in pairs}
    except ValueError:
        raise ArgumentError(
            f"must be a share such as 0.2 or LAYER:SHARE pairs such as 2:0.5,14:0.1 (or 2:0.5+14:0.1), got {text!r}."
        ) from None
    if len(stages) < len(pairs):
        raise ArgumentError(f"names a layer twice: {text!r}.")
    return stages
