"""The same greedy selection by NumPy and by packages that others publish; their results are the same sets.

Packages are imported at their first run. Those that take a ready kernel get it from the same torch operations: the Gram
matrices of all segments by ``bmm``, scaled in place. That is part of their time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from framefusion.bench.workloads import Case
from framefusion.reduction.relevance import min_max


def needs(*modules: str) -> Callable[[], str | None]:
    """A check for importable modules: None, or a sentence that names the extra to install."""

    def missing() -> str | None:
        absent = [module for module in modules if find_spec(module) is None]
        return f"needs {', '.join(absent)}: pip install 'framefusion[bench]'" if absent else None

    return missing


def relevance_of(case: Case) -> Tensor:
    """(B, N) float32 relevance with the published sign, as the other contenders take it."""
    return torch.stack([min_max(received, -1) for received in case.attention])


def kernels(case: Case) -> Tensor:
    """The kernel of every segment, (B · segments, n, n) float32, contiguous."""
    x = case.by_segment(case.features).float()
    gram = torch.bmm(x, x.mT)
    norms = torch.diagonal(gram, dim1=1, dim2=2).sqrt()
    scale = case.by_segment(relevance_of(case)) / norms
    return gram.mul_(scale[:, :, None]).mul_(scale[:, None, :])


def per_sample(case: Case, picks: Iterable[Tensor]) -> list[Tensor]:
    """Picks inside each segment, one (k,) int64 per sample and segment, as one (K,) per sample."""
    segments, n = case.config.segments, case.config.tokens
    moved = [pick + (index % segments) * n for index, pick in enumerate(picks)]
    return [torch.cat(moved[b * segments : (b + 1) * segments]) for b in range(case.config.batch)]


def numpy_textbook(case: Case) -> list[Tensor]:
    """Algorithm 1 of Chen, Zhang & Zhou 2018 in NumPy: kernel and loop segment by segment, float32."""
    features = case.by_segment(case.features).float().numpy()
    relevance = case.by_segment(relevance_of(case)).numpy()
    keep = min(case.config.keep, case.config.tokens)
    picks = []
    for x, r in zip(features, relevance, strict=True):
        rows = x * (r / np.linalg.norm(x, axis=1))[:, None]
        picks.append(torch.from_numpy(_textbook_greedy(rows @ rows.T, keep)))
    return per_sample(case, picks)


def _textbook_greedy(kernel: np.ndarray, k: int) -> np.ndarray:
    """Indices of the greedy MAP of an (n, n) kernel, (k,) int64 in greedy order."""
    c = np.zeros((k, len(kernel)), dtype=kernel.dtype)
    d2 = kernel.diagonal().copy()
    picks = np.empty(k, dtype=np.int64)
    for t in range(k):
        j = int(d2.argmax())
        picks[t] = j
        c[t] = (kernel[j] - c[:t, j] @ c[:t]) / np.sqrt(d2[j])
        d2 -= c[t] ** 2
        d2[j] = -np.inf
    return picks


def lapack_pivoted_cholesky(case: Case) -> list[Tensor]:
    """Pivots of LAPACK's ``spstrf``, which always takes the largest remaining diagonal."""
    from scipy.linalg.lapack import spstrf

    keep = min(case.config.keep, case.config.tokens)
    picks = []
    for kernel in kernels(case).numpy():
        # A symmetric matrix is its own transpose, and in this order the wrapper need not copy it.
        _, pivots, _, _ = spstrf(kernel.T, tol=0.0, overwrite_a=1)
        picks.append(torch.from_numpy(pivots[:keep].astype(np.int64) - 1))
    return per_sample(case, picks)


def linear_operator_pivots(case: Case) -> list[Tensor]:
    """Pivots of ``linear_operator.pivoted_cholesky`` on the kernels of all segments at once."""
    from linear_operator import pivoted_cholesky

    keep = min(case.config.keep, case.config.tokens)
    with torch.no_grad():
        _, permutation = pivoted_cholesky(kernels(case), keep, error_tol=0.0, return_pivots=True)
    return per_sample(case, permutation[:, :keep])


def submodlib_log_determinant(case: Case) -> list[Tensor]:
    """``LogDeterminantFunction`` of submodlib with its lazy greedy optimiser; it refuses to keep all of a segment, so
    that is answered without it."""
    from submodlib import LogDeterminantFunction

    keep = case.config.keep
    if keep >= case.config.tokens:
        everything = torch.arange(case.config.tokens)
        return per_sample(case, [everything] * (case.config.batch * case.config.segments))
    picks = []
    for kernel in kernels(case).numpy():
        function = LogDeterminantFunction(n=len(kernel), mode="dense", lambdaVal=0.0, sijs=kernel)
        chosen = function.maximize(
            budget=keep,
            optimizer="LazyGreedy",
            stopIfZeroGain=False,
            stopIfNegativeGain=False,
            verbose=False,
            show_progress=False,
        )
        picks.append(torch.tensor([index for index, _ in chosen]))
    return per_sample(case, picks)
