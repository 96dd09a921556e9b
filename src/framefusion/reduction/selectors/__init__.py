"""Selectors: the rules that say which tokens stay. One small file each, one registry line each.

A selector is a function of pure tensors, ``select(candidates) -> indices``, or a frozen dataclass that is called so,
whose fields are its parameters. It is given the
:class:`~framefusion.reduction.selectors.candidates.Candidates` of one video or image and returns

* an int64 tensor of distinct indices into them, exactly ``candidates.budgets[s]`` of each segment ``s``, in any order
  (of those in :data:`SPLIT_AT_INPUT` as many in all, before layer 0);
* or a :class:`~framefusion.reduction.selectors.candidates.Selected`, when what is dropped leaves a trace in what stays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, ArgumentTypeError
from framefusion.reduction.rules import name_of, rule_of
from framefusion.reduction.selectors import (
    divprune,
    dpp,
    evs,
    fastvid,
    flashvid,
    floc,
    forestprune,
    hieravid,
    holitom,
    low_resolution,
    pyramiddrop,
    random,
    scissor,
    sttm,
    topk,
    unicomp,
    uniform,
    v_cast,
    vidcom2,
)
from framefusion.reduction.selectors.candidates import Candidates, Selected

Selector = Callable[[Candidates], "Tensor | Selected"]

SELECTORS: dict[str, Selector] = {
    "dpp": dpp.DPP(),
    "dpp-once": dpp.DPPOnce(),
    "topk": topk.select,
    "uniform": uniform.select,
    "random": random.select,
    "low-resolution": low_resolution.select,
    "divprune": divprune.select,
    "evs": evs.select,
    "vidcom2": vidcom2.select,
    "fastvid": fastvid.select,
    "holitom": holitom.select,
    "floc": floc.select,
    "unicomp": unicomp.select,
    "forestprune": forestprune.select,
    "v-cast": v_cast.select,
    "flashvid": flashvid.select,
    "scissor": scissor.select,
    "sttm": sttm.select,
    "holitom-loose": holitom.select_loose,
    "hieravid": hieravid.HieraVid(),
    "pyramiddrop": pyramiddrop.select,
}

NEED_RELEVANCE: set[str] = {"topk"}
"""The selectors that cannot do without relevance: no stage of theirs may come before the first attention."""

SPLIT_AT_INPUT: set[str] = {"hieravid"}
"""The selectors that split the total over the segments themselves before layer 0, where only the total is held."""


def select(selector: str | dpp.Kernel, candidates: Candidates) -> Selected:
    """Ask a selector, by name or with what it is told, and hold it to its contract.

    Returns:
        ``indices`` ascending and ``target`` on the CPU, ``features`` in the order of the indices.

    Raises:
        ValueError: the selector returned something else than it was asked for.
    """
    name = name_of(selector, SELECTORS)
    answer = rule_of(selector, SELECTORS)(candidates)
    selected = answer if isinstance(answer, Selected) else Selected(answer)
    indices = _check_indices(name, selected.indices, candidates)
    target = None if selected.target is None else _check_target(name, selected.target, indices, candidates)
    order = indices.argsort()
    features = selected.features
    if features is not None:
        _check_features(name, features, len(indices), candidates)
        features = features.to(candidates.features.device)[order.to(candidates.features.device)]
    return Selected(indices[order], target, features)


def _check_indices(name: str, chosen: Tensor, candidates: Candidates) -> Tensor:
    _check_int64(name, chosen, "", "a one-dimensional int64 tensor")
    chosen, segments = chosen.cpu(), candidates.segments
    if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(segments)):
        raise ArgumentError(f"selector {name!r} returned an index outside 0 … {len(segments) - 1}.")
    distinct = chosen.unique()
    got = {
        int(segment): int(count) for segment, count in zip(*segments[distinct].unique(return_counts=True), strict=True)
    }
    if name in SPLIT_AT_INPUT and candidates.layer == 0:
        if len(distinct) != candidates.total or len(chosen) != candidates.total:
            raise ArgumentError(
                f"selector {name!r} returned {len(distinct)} distinct tokens in all, asked for {candidates.total}."
            )
        return chosen
    for segment in candidates.budgets.keys() | got.keys():
        count = candidates.budgets.get(segment, 0)
        if got.get(segment, 0) != count or len(distinct) != len(chosen):
            raise ArgumentError(
                f"selector {name!r} returned {got.get(segment, 0)} distinct tokens of segment {segment}, asked for "
                f"{count} ({len(chosen)} indices in all, {len(distinct)} of them distinct)."
            )
    return chosen


def _check_target(name: str, target: Tensor, indices: Tensor, candidates: Candidates) -> Tensor:
    count = len(candidates.segments)
    _check_int64(name, target, "the target ", f"None or a one-dimensional int64 tensor of {count} entries", count)
    target = target.cpu()
    kept = torch.zeros(count, dtype=torch.bool)
    kept[indices] = True
    everyone = torch.arange(count)
    stray = kept & (target != everyone)
    if stray.any():
        token = int(stray.nonzero()[0])
        raise ArgumentError(
            f"selector {name!r} returned target[{token}] = {int(target[token])}, but token {token} is kept; a kept "
            "token is its own target."
        )
    outside = (target < -1) | (target >= count)
    lost = ~kept & (outside | ((target >= 0) & ~kept[target.clamp(0, max(count - 1, 0))]))
    if lost.any():
        token = int(lost.nonzero()[0])
        raise ArgumentError(
            f"selector {name!r} returned target[{token}] = {int(target[token])}, which is no kept token; the target "
            "of a dropped token is a kept one, or -1."
        )
    return target


def _check_int64(name: str, value: Tensor, what: str, wanted: str, count: int | None = None) -> None:
    fits = isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 1
    if not fits or (count is not None and len(value) != count):
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(f"selector {name!r} returned {what}{got}; it must return {wanted}.")


def _check_features(name: str, features: Tensor, kept: int, candidates: Candidates) -> None:
    shape, dtype = (kept, candidates.features.shape[1]), candidates.features.dtype
    if not isinstance(features, Tensor) or features.dtype != dtype or features.shape != shape:
        got = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise ArgumentError(
            f"selector {name!r} returned features of {got}; they must be {dtype} {shape}, one row for each index."
        )


def register_selector(name: str, select: Selector, *, needs_relevance: bool = False) -> None:
    """Add a selection rule of your own: ``FrameFusion(selector=name)`` uses it from now on.

    Args:
        name: an identifier.
        select: a function of pure tensors; see this module for its contract. What it returns is checked in use: a
            wrong number of tokens, of any segment, is an error.
        needs_relevance: whether the rule cannot do without relevance. ``FrameFusion`` then refuses
            ``relevance="none"`` and stages before layer 0, where it would be None.

    Raises:
        TypeError: ``select`` cannot be called.
        ValueError: the name is no identifier, or is taken.
    """
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise ArgumentError(f"name must be an identifier such as 'my-rule', got {name!r}.")
    if not callable(select):
        raise ArgumentTypeError(f"select must be a function select(candidates), got {type(select).__name__}.")
    if name in SELECTORS:
        raise ArgumentError(f"a selector named {name!r} is registered already; choose another name.")
    SELECTORS[name] = select
    if needs_relevance:
        NEED_RELEVANCE.add(name)
