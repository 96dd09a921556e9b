"""Check the arguments of the public selection functions; every message names the argument and the way out."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from framefusion.checks import is_number
from framefusion.errors import ArgumentError, ArgumentTypeError
from framefusion.selection.plan import Budgets, present_ids

FEATURE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EXHAUSTED = ("fill", "stop", "restart")


def check_features(features: Any) -> Tensor:
    """``features`` must be a float tensor (N, D) or (B, N, D) with D ≥ 1."""
    if not isinstance(features, Tensor):
        raise ArgumentTypeError(f"features must be a torch.Tensor, got {type(features).__name__}")
    if features.dtype not in FEATURE_DTYPES:
        raise ArgumentTypeError(
            f"features must have dtype float16, bfloat16, float32 or float64, got {features.dtype}; "
            "convert them with features.float()"
        )
    if features.dim() not in (2, 3):
        raise ArgumentError(f"features must have shape (N, D) or (B, N, D), got {tuple(features.shape)}")
    if features.shape[-1] == 0:
        raise ArgumentError(f"features must have at least one column, got shape {tuple(features.shape)}")
    return features


def check_relevance(relevance: Any, shape: Sequence[int], check_values: bool) -> Tensor | None:
    """``relevance`` must be None or a float tensor of ``shape`` with finite values ≥ 0."""
    if relevance is None:
        return None
    if not isinstance(relevance, Tensor):
        raise ArgumentTypeError(f"relevance must be a torch.Tensor or None, got {type(relevance).__name__}")
    if not relevance.is_floating_point():
        raise ArgumentTypeError(f"relevance must have a float dtype, got {relevance.dtype}")
    if relevance.shape != torch.Size(shape):
        raise ArgumentError(
            f"relevance must have shape {tuple(shape)}, one value per token of features, got {tuple(relevance.shape)}"
        )
    if check_values and relevance.numel():
        low, high = torch.aminmax(relevance.detach())
        # NaN fails the comparison too.
        if not (float(low) >= 0 and float(high) < float("inf")):
            check_finite(relevance, "relevance")
            position = first_true(relevance < 0)
            value = relevance[position].item()
            raise ArgumentError(
                f"relevance must be >= 0, got {value:g} at position {format_position(position)}; "
                "shift it first, for example by min–max scaling"
            )
    return relevance


def check_finite(values: Tensor, name: str) -> None:
    """Raise a ValueError that names the first NaN or Inf of ``values``."""
    if values.numel() == 0 or bool(torch.isfinite(values).all()):
        return
    position = first_true(~torch.isfinite(values))
    raise_not_finite(name, values[position].item(), position)


def raise_not_finite(name: str, value: float, position: Sequence[int]) -> NoReturn:
    """Raise the error for one NaN or Inf."""
    raise ArgumentError(
        f"{name} must be finite, got {value} at position {format_position(position)}; "
        "replace or drop such entries before the selection"
    )


def first_true(mask: Tensor) -> tuple[int, ...]:
    """Index of the first true element in row-major order."""
    return tuple(int(i) for i in mask.nonzero()[0])


def format_position(position: Sequence[int]) -> str:
    return str(position[0]) if len(position) == 1 else str(tuple(position))


def check_segments(segments: Any, shape: Sequence[int]) -> np.ndarray:
    """Segment ids as int64 (B, N) on the host; None means one segment 0; −1 marks tokens outside every
    segment.

    Args:
        segments: None or integer ids (N,) or (B, N): tensor, array or sequence.
        shape: (N,) or (B, N), the shape of the features without their last dimension.
    """
    batch, n = (1, shape[0]) if len(shape) == 1 else shape
    if segments is None:
        return np.zeros((batch, n), dtype=np.int64)
    if not isinstance(segments, Tensor):
        try:
            segments = torch.as_tensor(np.asarray(segments))
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"segments must hold integers, got {type(segments).__name__}: {error}") from None
        if segments.numel() == 0:
            segments = segments.to(torch.int64)
    if segments.is_floating_point() or segments.is_complex() or segments.dtype == torch.bool:
        raise ArgumentTypeError(f"segments must have an integer dtype, got {segments.dtype}")
    if tuple(segments.shape) not in {tuple(shape), (n,)}:
        allowed = f"({n},)" if len(shape) == 1 else f"({n},) or ({batch}, {n})"
        raise ArgumentError(
            f"segments must have shape {allowed}, one id per token of features, got {tuple(segments.shape)}"
        )
    ids = segments.detach().cpu().to(torch.int64).numpy()
    if ids.size and ids.min() < -1:
        position = tuple(int(i) for i in np.argwhere(ids < -1)[0])
        raise ArgumentError(
            f"segments must be >= -1 (-1 marks tokens outside every segment), got {ids[position]} "
            f"at position {format_position(position)}"
        )
    return np.broadcast_to(ids, (batch, n))


def check_count(value: Any, name: str) -> int:
    """An integer ≥ 0; bool and float are refused."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        raise ArgumentTypeError(f"{name} must be an integer, got a bool")
    try:
        count = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})") from None
    if count < 0:
        raise ArgumentError(f"{name} must be >= 0, got {count}")
    return count


def check_share(value: Any, name: str) -> float:
    """``value`` must be a number in [0, 1]."""
    if not is_number(value):
        raise ArgumentTypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not 0 <= float(value) <= 1:
        raise ArgumentError(f"{name} must be in [0, 1], got {value}")
    return float(value)


GAMMA = 20.0
"""Largest ``gamma``: beyond it, kernels of opposite vectors leave float32."""


def check_gamma(value: Any) -> float | None:
    """``gamma`` must be None or a number in (0, GAMMA]."""
    if value is None:
        return None
    if not is_number(value):
        raise ArgumentTypeError(f"gamma must be None or a number, got {value!r} ({type(value).__name__})")
    if not 0 < float(value) <= GAMMA:
        raise ArgumentError(f"gamma must be in (0, {GAMMA:g}], or None for the kernel of cosines, got {value}")
    return float(value)


def check_total(budgets: Sequence[tuple[Budgets, list[int]]]) -> int:
    """The integer that the budgets of all samples must be when segments share it."""
    total, _ = budgets[0] if budgets else (0, [])
    if not isinstance(total, int):
        raise ArgumentError(
            f"budgets must be one integer with joint=True, which splits it over the segments, got {total!r}; leave "
            "joint out to give each segment its own"
        )
    return total


def check_budgets(budgets: Any, ids: np.ndarray, batched: bool) -> list[tuple[Budgets, list[int]]]:
    """One validated ``(budgets, ids that a sequence refers to)`` per sample.

    Args:
        budgets: an integer, a mapping, a sequence of integers; for a batch also a sequence of such values
            that are not integers, one per sample.
        ids: (B, N) segment ids.
        batched: whether the features have a batch dimension.
    """
    if budgets is None:
        raise ArgumentTypeError(
            "budgets is required: a mapping from segment id to count, one count per segment in ascending "
            "order of the ids, or one integer for the whole sample"
        )
    if isinstance(budgets, np.ndarray):
        budgets = torch.from_numpy(budgets) if budgets.dtype.kind in "iu" else budgets.tolist()
    if isinstance(budgets, Tensor):
        if budgets.is_floating_point() or budgets.is_complex() or budgets.dtype == torch.bool:
            raise ArgumentTypeError(f"budgets must hold integers, got dtype {budgets.dtype}")
        budgets = budgets.tolist()
    if batched and _is_sequence(budgets) and budgets and all(_is_nested(b) for b in budgets):
        if len(budgets) != len(ids):
            raise ArgumentError(f"budgets has {len(budgets)} entries for a batch of {len(ids)} samples")
        return [_check_one(b, row, f"budgets[{i}]") for i, (b, row) in enumerate(zip(budgets, ids, strict=True))]
    return [_check_one(budgets, ids, "budgets")] * len(ids)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, Mapping | str | bytes)


def _is_nested(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Mapping) or _is_sequence(value)


def _check_one(budgets: Any, ids: np.ndarray, name: str) -> tuple[Budgets, list[int]]:
    if isinstance(budgets, Mapping):
        return _check_mapping(budgets, name), []
    if isinstance(budgets, str | bytes):
        raise ArgumentTypeError(f"{name} must be an integer, a mapping or a sequence of integers, got {budgets!r}")
    if _is_sequence(budgets):
        counts = [check_count(b, f"{name}[{i}]") for i, b in enumerate(budgets)]
        present = present_ids(ids)
        if len(counts) != len(present):
            raise ArgumentError(
                f"{name} has {len(counts)} entries for {len(present)} segments (ids {_some(present)}); give "
                "one count per segment in ascending order of the ids, or a mapping from segment id to count"
            )
        return counts, present
    return check_count(budgets, name), []


def _check_mapping(budgets: Mapping[Any, Any], name: str) -> dict[int, int]:
    checked: dict[int, int] = {}
    for key, value in budgets.items():
        segment = check_count(key, f"the segment id {key!r} in {name}")
        if segment in checked:
            raise ArgumentError(f"{name} names segment {segment} twice")
        checked[segment] = check_count(value, f"{name}[{key!r}]")
    return checked


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "") if ids else "none"


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """``value`` must be one of ``choices``."""
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)
