"""Which backend ``"auto"`` is: on a CPU plain torch until Numba pays for itself, as one rents until buying is cheaper.

Numba takes a quarter of a second to be imported and seconds to compile, and then spares torch's surplus in every
selection. What it would have spared so far in this process is added up, from the sizes of the problems and never from a
clock:

- once code is compiled in this process for a dtype, by :func:`framefusion.selection.warm_up` or ``backend="numba"``, it
  is used;
- once the sum is what importing takes, Numba is imported, and used if its cache on disk holds the compiled code;
- once the sum is what compiling takes, it compiles.

So a process takes at most twice what it would have, had it known what was to come. Programs that go on for long call
``warm_up`` at their beginning.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

import torch

from framefusion.selection import backends
from framefusion.selection.numerics import accumulation_dtype
from framefusion.selection.problem import Problem

logger = logging.getLogger(__name__)

IMPORTING, COMPILING = 0.25, 2.5
"""Seconds of CPU time that importing Numba with code from its cache takes, and compiling."""

A_PRODUCT, AN_UPDATE, A_STEP = 8e-12, 1e-10, 4e-5
"""Seconds that torch takes longer than Numba for each of the ``n² D`` products of a Gram matrix, of the ``k² n``
updates of its greedy loop, and of the steps that segments take together; ``python -m benchmarks.first_answer
surplus`` relates them to what is measured."""

_MODULE = f"{__package__}.numba_backend"


class _Spared:
    """Seconds that Numba would have spared this process so far."""

    seconds = 0.0


def for_problem(name: str, problem: Problem) -> str:
    """The backend that a name stands for.

    Args:
        name: of :data:`framefusion.selection.BACKENDS`.
        problem: what it is to select.
    """
    features = problem.features
    if name != "auto" or backends.resolve(name, features.device) != "numba":
        return backends.resolve(name, features.device)
    segments = ((len(s), s.count) for own in problem.samples for s in own if len(s) <= problem.long_segment)
    return _chosen(accumulation_dtype(features.dtype), surplus(segments, features.shape[-1]))


def for_kernel(name: str, device: torch.device, dtype: torch.dtype, size: int, count: int) -> str:
    """The backend that a name stands for, for ``count`` of the ``size`` rows of a ready kernel of a float dtype."""
    if name != "auto" or backends.resolve(name, device) != "numba":
        return backends.resolve(name, device)
    return _chosen(accumulation_dtype(dtype), surplus([(size, count)], 0))


def surplus(segments: Iterable[tuple[int, int]], dim: int) -> float:
    """Seconds that torch takes longer than compiled code.

    Args:
        segments: tokens ``n`` and picks ``k`` of each.
        dim: of the features.
    """
    products = updates = steps = 0
    for n, k in segments:
        if k > 0:
            products, updates, steps = products + n * n * dim, updates + k * k * n, max(steps, k)
    return A_PRODUCT * products + AN_UPDATE * updates + A_STEP * steps


def _chosen(dtype: torch.dtype, seconds: float) -> str:
    module = sys.modules.get(_MODULE)
    if module is not None and module.is_compiled(dtype):
        return "numba"
    _Spared.seconds += seconds
    if _Spared.seconds < IMPORTING:
        return "torch"
    from framefusion.selection import numba_backend

    if _Spared.seconds < COMPILING and not numba_backend.is_cached():
        return "torch"
    logger.info("the selection goes on with Numba, which would have spared %.1f s so far", _Spared.seconds)
    return "numba"
