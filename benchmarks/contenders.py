"""Contenders beside the package's own: other packages, and the bound of long segments. Importing this adds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import openvino_dpp, peers
from framefusion.bench.contenders import CONTENDERS, Contender
from framefusion.bench.workloads import Case

STREAMED = 8
"""Products of the features with a vector that are timed for the bound ``stream``."""


def _stream(case: Case) -> list[Tensor]:
    x = case.features.flatten(0, 1)
    vector = x[0].clone()
    for _ in range(STREAMED):
        torch.mv(x, vector)
    return []


OTHERS: dict[str, Contender] = {
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

PEERS = ("numpy", "lapack", "linear-operator", "submodlib", "openvino")
"""Other ways to the same selection; they need the extra ``bench``."""

CONTENDERS.update({name: replace(contender, module=__name__) for name, contender in OTHERS.items()})


def split_installed(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The contenders that can run here, and for each other one the sentence on what to install."""
    reasons = {name: CONTENDERS[name].missing() for name in names}
    absent = {name: reason for name, reason in reasons.items() if reason is not None}
    return [name for name in names if name not in absent], absent
