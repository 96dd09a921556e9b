"""The ways to select tokens that take turns on a workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.bench import openvino_dpp, peers
from framefusion.bench.baselines import original_global_matrix, per_segment_loop
from framefusion.bench.workloads import Case, Config
from framefusion.reduction.relevance import min_max
from framefusion.selection import select_tokens
from framefusion.selection.backends import resolve

STREAMED = 8
"""Products of the features with a vector that are timed for the bound ``stream``."""


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
        times: how many of its runs the workload stands for; the measured time is multiplied by it.
    """

    label: str
    note: str
    run: Callable[[Case], list[Tensor]]
    on_cuda: bool = True
    on_cpu: bool = True
    missing: Callable[[], str | None] = lambda: None
    times: Callable[[Config], float] = lambda config: 1.0


def _select(case: Case, backend: str) -> list[Tensor]:
    relevance = torch.stack([min_max(received, -1) for received in case.attention])
    budgets = [case.config.keep] * case.config.segments
    kept = select_tokens(case.features, relevance, case.ids, budgets, backend=backend)
    return list(kept)


def _select_by_diversity(case: Case) -> list[Tensor]:
    select_tokens(case.features, None, case.ids, [case.config.keep] * case.config.segments, backend="numba")
    return []


def _bare_gram(case: Case, dtype: torch.dtype) -> list[Tensor]:
    x = peers.by_segment(case, case.features_as(dtype))
    torch.bmm(x, x.mT)
    return []


def _stream(case: Case) -> list[Tensor]:
    x = case.features.flatten(0, 1)
    vector = x[0].clone()
    for _ in range(STREAMED):
        torch.mv(x, vector)
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
    "numba-uniform": Contender(
        "select_tokens, numba, uniform relevance",
        "The same by diversity alone: any token could be picked next, so every product of the features is needed. It "
        "selects others than the rest.",
        _select_by_diversity,
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
    "numpy": Contender(
        "NumPy textbook loop",
        "Algorithm 1 of Chen, Zhang & Zhou 2018 in NumPy, one segment after another.",
        peers.numpy_textbook,
        on_cuda=False,
        missing=peers.needs("threadpoolctl"),
    ),
    "lapack": Contender(
        "LAPACK pstrf (SciPy)",
        "Cholesky factorisation with complete pivoting: its pivots are the same greedy sequence, but the routine "
        "cannot end after k of them and factorises the whole kernel.",
        peers.lapack_pivoted_cholesky,
        on_cuda=False,
        missing=peers.needs("scipy", "threadpoolctl"),
    ),
    "linear-operator": Contender(
        "linear_operator pivoted_cholesky",
        "GPyTorch's partial pivoted Cholesky, batched over segments in torch: the same greedy sequence.",
        peers.linear_operator_pivots,
        missing=peers.needs("linear_operator"),
    ),
    "submodlib": Contender(
        "submodlib LogDeterminant",
        "Lazy greedy in C++ on log det(L + λI) with λ = 0, which is the same objective; the package takes the kernel "
        "as nested Python lists, and that conversion is part of its time.",
        peers.submodlib_log_determinant,
        on_cuda=False,
        missing=peers.needs("submodlib"),
    ),
    "openvino": Contender(
        "OpenVINO GenAI FastGreedyDPP",
        "The C++ greedy of OpenVINO GenAI's CDPruner, called in its released shared library; the same objective but "
        "for 1e-6 added to each chosen gain under the root, and no floor for exhausted candidates. One thread.",
        openvino_dpp.select,
        on_cuda=False,
        missing=openvino_dpp.missing,
    ),
    "stream": Contender(
        "features read k times",
        f"The bound of a selection that reads the features once per step: k times one `torch.mv` over them "
        f"({STREAMED} are timed).",
        _stream,
        times=lambda config: config.keep / STREAMED,
    ),
}
"""Everything that can be measured, by name."""

BASICS = ("original", "loop", "torch", "numba", "numba-uniform", "triton", "gram", "gram-bf16")
"""Contenders that need nothing but this package."""

PEERS = ("numpy", "lapack", "linear-operator", "submodlib", "openvino")
"""Other ways to the same selection; they need the extra ``bench``."""


def label(name: str) -> str:
    """A contender's name in tables; the name itself where it is unknown (results of another version)."""
    return CONTENDERS[name].label if name in CONTENDERS else name


def contenders_on(device: str, names: Sequence[str] = BASICS) -> list[str]:
    """Those of the named contenders that run on a device."""
    on_cpu = torch.device(device).type == "cpu"
    return [name for name in names if (CONTENDERS[name].on_cpu if on_cpu else CONTENDERS[name].on_cuda)]


def split_installed(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The contenders that can run here, and for each other one the sentence on what to install."""
    reasons = {name: CONTENDERS[name].missing() for name in names}
    absent = {name: reason for name, reason in reasons.items() if reason is not None}
    return [name for name in names if name not in absent], absent


def ours_on(device: str) -> str:
    """The contender that ``backend="auto"`` takes on a device."""
    return resolve("auto", torch.device(device))
