"""From a problem to its answer: a backend, and around it the steps that it does not do itself.

A step takes a problem and whom to ask, asks for simpler problems and makes the answer from theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from framefusion.errors import ArgumentError, ArgumentTypeError, StateError
from framefusion.selection import automatic, backends, gram_schmidt, joint, nearest, novelty, restart
from framefusion.selection import validation as check
from framefusion.selection.gram import NonFiniteFeaturesError
from framefusion.selection.numerics import accumulation_dtype, fill_exhausted
from framefusion.selection.problem import Answer, Ask, Choices, Problem, make_problem

STEPS: dict[str, Callable[[Problem, Ask], Answer]] = {
    "assign": nearest.answer,
    "novelty": novelty.answer,
    "joint": joint.answer,
    "restart": restart.answer,
    "long": gram_schmidt.answer,
}
"""From the outermost to the innermost."""


def select(problem: Problem, backend: str) -> Answer:
    """What each segment of each sample keeps.

    Raises:
        ValueError: the features hold NaN or Inf (named with the first position), or the backend does not run here.
    """
    device = problem.features.device
    chosen = backends.load(automatic.for_problem(backend, problem), device)
    ask: Ask = chosen.select
    for name in reversed(STEPS):
        if name not in chosen.OWN_STEPS:
            ask = partial(_step, STEPS[name], ask)
    try:
        # Autocast would take the products in half precision, and so select other tokens.
        with torch.autocast(device.type, enabled=False):
            return ask(problem)
    except NonFiniteFeaturesError:
        _raise_non_finite(problem)


def _step(step: Callable[[Problem, Ask], Answer], ask: Ask, problem: Problem) -> Answer:
    return step(problem, ask)


@torch.no_grad()
def select_tokens(
    features: Any, relevance: Any, segments: Any, budgets: Any, choices: Choices, return_gains: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`framefusion.select_tokens`; always lists, with one entry for (N, D).

    Returns:
        For each sample the (K,) int64 tokens it keeps; and the (K,) float64 gains of each, none unless asked for.
    """
    check.check_choice(choices.backend, "backend", backends.BACKENDS)
    problem = make_problem(features, relevance, segments, budgets, choices)
    if return_gains:
        problem = replace(problem, traced=True)
    answer, device = select(problem, choices.backend), problem.features.device
    kept = [torch.cat([torch.empty(0, dtype=torch.int64, device=device), *[p.rows for p in own]]) for own in answer]
    if not return_gains:
        return kept, []
    nothing = torch.empty(0, dtype=torch.float64, device=device)
    return kept, [torch.cat([nothing, *[p.trace[:, 0] for p in own if p.trace is not None]]) for own in answer]


@torch.no_grad()
def greedy_map(kernel: Any, k: Any, exhausted: str, backend: str) -> Tensor:
    """:func:`framefusion.selection.greedy_map`."""
    if not isinstance(kernel, Tensor):
        raise ArgumentTypeError(f"kernel must be a torch.Tensor, got {type(kernel).__name__}")
    if kernel.dtype not in check.FEATURE_DTYPES:
        raise ArgumentTypeError(f"kernel must have a float dtype, got {kernel.dtype}")
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ArgumentError(f"kernel must be a square matrix (n, n), got shape {tuple(kernel.shape)}")
    check.check_choice(backend, "backend", backends.BACKENDS)
    check.check_choice(exhausted, "exhausted", ("fill", "stop"))
    n = kernel.shape[0]
    k = min(check.check_count(k, "k"), n)
    check.check_finite(kernel, "kernel")
    diagonal = kernel.diagonal()
    if bool((diagonal < 0).any()):
        (position,) = check.first_true(diagonal < 0)
        raise ArgumentError(
            f"kernel must have a diagonal >= 0, got {diagonal[position].item():g} at position {position}"
        )
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=kernel.device)
    dtype = accumulation_dtype(kernel.dtype)
    kernel, diagonal = kernel.detach().to(dtype), diagonal.detach().to(dtype)
    with torch.autocast(kernel.device.type, enabled=False):
        chosen = automatic.for_kernel(backend, kernel.device, dtype, n, k)
        picks = backends.load(chosen, kernel.device).select_from_kernel(kernel, diagonal, k)
    if exhausted == "stop":
        return picks[picks >= 0]
    length, count = (torch.tensor([v], device=kernel.device) for v in (n, k))
    return fill_exhausted(picks[None], diagonal[None], length, count)[0]


def _raise_non_finite(problem: Problem) -> NoReturn:
    for b, segments in enumerate(problem.samples):
        wanted = [s.rows for s in segments if s.count > 0]
        if not wanted:
            continue
        rows = torch.cat(wanted).sort().values.to(problem.features.device)
        bad = ~torch.isfinite(problem.features[b, rows])
        if bool(bad.any()):
            row, column = check.first_true(bad)
            position = (*([b] if problem.batched else []), int(rows[row]), column)
            check.raise_not_finite("features", problem.features[b, rows[row], column].item(), position)
    raise StateError(
        "a backend found NaN or Inf where there is none; report it, and take backend='reference' until then"
    )
