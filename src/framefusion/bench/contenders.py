"""The ways to select tokens that take turns on a workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.bench.baselines import original_global_matrix, per_segment_loop
from framefusion.bench.workloads import Case, Config
from framefusion.reduction.relevance import min_max
from framefusion.selection import select_tokens
from framefusion.selection.backends import resolve


@dataclass(frozen=True)
class Contender:
    """One way to select, or something to relate its time to.

    Attributes:
        label: its name in tables.
        note: in a sentence, what it computes and how its objective differs from ours.
        run: takes a case and returns one (K,) int64 tensor per sample; an empty list where no tokens are to be
            compared. What it converts or copies from the case's features is part of its time, unless it says otherwise.
        on_cuda, on_cpu: where it runs.
        missing: None where it can run, else a sentence on what to install.
        module: which adds it to :data:`CONTENDERS` when it is imported.
        times: how many of its runs the workload stands for; the measured time is multiplied by it.
    """

    label: str
    note: str
    run: Callable[[Case], list[Tensor]]
    on_cuda: bool = True
    on_cpu: bool = True
    missing: Callable[[], str | None] = lambda: None
    module: str = __name__
    times: Callable[[Config], float] = lambda config: 1.0


def _select(case: Case, backend: str) -> list[Tensor]:
    relevance = torch.stack([min_max(received, -1) for received in case.attention])
    budgets = [case.config.keep] * case.config.segments
    kept = select_tokens(case.features, relevance, case.ids, budgets, backend=backend)
    return list(kept)


def _bare_gram(case: Case, dtype: torch.dtype) -> list[Tensor]:
    x = case.by_segment(case.features_as(dtype))
    torch.bmm(x, x.mT)
    return []


CONTENDERS: dict[str, Contender] = {
    "original": Contender(
        "original (global matrix)",
        "The published system, written from its formulas: one similarity matrix over all tokens, sub-kernels cut out "
        "of it, one torch operation after another.",
        lambda case: list(original_global_matrix(case.features, case.attention, case.rows(), case.config.keep)),
    ),
    "loop": Contender(
        "per-segment loop",
        "The same with the similarity computed per segment.",
        lambda case: list(per_segment_loop(case.features, case.attention, case.rows(), case.config.keep)),
    ),
    "torch": Contender(
        "select_tokens, torch", "This library, plain torch operations.", lambda case: _select(case, "torch")
    ),
    "numba": Contender(
        "select_tokens, numba",
        "This library on a CPU, the default there.",
        lambda case: _select(case, "numba"),
        on_cuda=False,
    ),
    "triton": Contender(
        "select_tokens, triton",
        "This library on a GPU, the default there.",
        lambda case: _select(case, "triton"),
        on_cpu=False,
    ),
    "gram": Contender(
        "Gram matrix alone (fp32)",
        "`torch.bmm` of every segment's float32 features with themselves: both halves of the symmetric matrix, and "
        "nothing else. Features of another dtype are converted beforehand.",
        lambda case: _bare_gram(case, torch.float32),
    ),
    "gram-bf16": Contender(
        "Gram matrix alone (bf16)",
        "The same product of bfloat16 features, rounded to bfloat16: too coarse to select by.",
        lambda case: _bare_gram(case, torch.bfloat16),
    ),
}
"""Everything that can be measured, by name; ``benchmarks/contenders.py`` adds other packages."""

BASICS = ("original", "loop", "torch", "numba", "triton", "gram", "gram-bf16")
"""Contenders that need nothing but this package."""


def label(name: str) -> str:
    """A contender's name in tables; the name itself where it is unknown (results of another version)."""
    return CONTENDERS[name].label if name in CONTENDERS else name


def contenders_on(device: str, names: Sequence[str] = BASICS) -> list[str]:
    """Those of the named contenders that run on a device."""
    on_cpu = torch.device(device).type == "cpu"
    return [name for name in names if (CONTENDERS[name].on_cpu if on_cpu else CONTENDERS[name].on_cuda)]


def ours_on(device: str) -> str:
    """The contender that ``backend="auto"`` takes on a device."""
    return resolve("auto", torch.device(device))
