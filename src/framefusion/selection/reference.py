"""The textbook algorithm in float64 on the full N × N kernel: slow, readable, what every backend is held
against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from framefusion.errors import ArgumentError
from framefusion.selection.gram import NonFiniteFeaturesError
from framefusion.selection.numerics import EXHAUSTION_FACTOR
from framefusion.selection.plan import Picks, Segment
from framefusion.selection.problem import Answer, Problem

MAX_TOKENS = 8192
"""The full matrix of more tokens than this would need over half a GiB."""


OWN_STEPS = frozenset({"joint", "long"})


def check_device(device: torch.device) -> None:
    """It computes on the CPU, wherever the features are."""


def select(problem: Problem) -> Answer:
    """What each segment of each sample keeps, always with its trace; see :class:`~.backends.Backend`."""
    answer = []
    for b, segments in enumerate(problem.samples):
        features, early_stop = problem.features[b], problem.exhausted == "stop"
        relevance = None if problem.relevance is None else problem.relevance[b]
        _check(features, segments, problem.check_finite)
        if problem.total is None:
            answer.append(select_segments(features, relevance, segments, early_stop, problem.gamma))
        else:
            answer.append(select_jointly(features, relevance, segments, problem.total, early_stop, problem.gamma))
    return answer


def select_from_kernel(kernel: Tensor, diagonal: Tensor, count: int) -> Tensor:
    """See :class:`~.backends.Backend`."""
    chosen, _ = greedy_map(kernel.double().cpu(), count, EXHAUSTION_FACTOR * torch.finfo(kernel.dtype).eps)
    return torch.tensor(chosen + [-1] * (count - len(chosen)), device=kernel.device)


def _check(features: Tensor, segments: Sequence[Segment], check_finite: bool) -> None:
    if len(features) > MAX_TOKENS:
        raise ArgumentError(
            f"backend 'reference' builds the full N × N matrix and takes at most {MAX_TOKENS} tokens, "
            f"got {len(features)}; use backend='auto'"
        )
    for segment in segments if check_finite else ():
        if segment.count > 0 and not bool(torch.isfinite(features[segment.rows.to(features.device)]).all()):
            raise NonFiniteFeaturesError


def select_segments(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    early_stop: bool,
    gamma: float | None = None,
) -> list[Picks]:
    """What each segment keeps, always with its trace.

    Args:
        features: (N, D) finite features, any float dtype and device.
        relevance: (N,) relevance ≥ 0, or None for uniform relevance.
        segments: segments of this sample.
        early_stop: return fewer tokens instead of filling up when a segment is exhausted.
        gamma: of the Gaussian kernel, None for cosines, see :func:`full_kernel`.
    """
    n = features.shape[0]
    r = torch.ones(n, dtype=torch.float64, device="cpu") if relevance is None else relevance.double().cpu()
    kernel = full_kernel(features.double().cpu(), r, gamma)
    device = features.device
    eps = torch.finfo(torch.float64 if features.dtype == torch.float64 else torch.float32).eps
    picks = []
    for segment in segments:
        rows = segment.rows
        chosen, trace = greedy_map(kernel[rows][:, rows], segment.count, EXHAUSTION_FACTOR * eps)
        if not early_stop:
            remaining = [i for i in range(len(segment)) if i not in set(chosen)]
            remaining.sort(key=lambda i: (-float(r[rows[i]]), i))
            chosen += remaining[: segment.count - len(chosen)]
        trace += [(0.0, 0.0)] * (len(chosen) - len(trace))
        table = torch.tensor(trace, dtype=torch.float64, device="cpu").view(-1, 2)
        picks.append(Picks(rows[chosen].to(device), table.to(device)))
    return picks


def select_jointly(
    features: Tensor,
    relevance: Tensor | None,
    segments: Sequence[Segment],
    total: int,
    early_stop: bool,
    gamma: float | None = None,
) -> list[Picks]:
    """What each segment keeps of ``total`` tokens: the greedy on the full kernel with zeros between segments.

    While some segments have no token yet, as many picks are reserved for them, if ``total`` is enough for all.
    """
    n, device = features.shape[0], features.device
    r = torch.ones(n, dtype=torch.float64, device="cpu") if relevance is None else relevance.double().cpu()
    owner = torch.full((n,), -1, device="cpu")
    for s, segment in enumerate(segments):
        owner[segment.rows] = s
    same = (owner[:, None] == owner[None, :]) & (owner >= 0)
    kernel = torch.where(same, full_kernel(features.double().cpu(), r, gamma), 0.0)
    eps = torch.finfo(torch.float64 if features.dtype == torch.float64 else torch.float32).eps
    diagonal = kernel.diagonal().clone()
    everyone = {s for s, segment in enumerate(segments) if len(segment)}
    hopeful = {s for s in everyone if bool((diagonal[segments[s].rows] > 0).any())}
    total = min(total, int((owner >= 0).sum()))
    waiting = set(hopeful if early_stop else everyone)
    if total < len(waiting):
        waiting = set()
    d2, c = diagonal.clone(), torch.zeros(total, n, dtype=torch.float64, device="cpu")
    available = owner >= 0
    chosen: list[list[tuple[int, float, float]]] = [[] for _ in segments]
    for t in range(total):
        candidates = available & (d2 > EXHAUSTION_FACTOR * eps * diagonal)
        if total - t == len(waiting):
            candidates &= torch.isin(owner, torch.tensor(sorted(waiting), device="cpu"))
        if not bool(candidates.any()):
            break
        j = int(torch.where(candidates, d2, -torch.inf).argmax())
        s = int(owner[j])
        unspanned = torch.where(available & (owner == s) & (diagonal > 0), d2 / diagonal, 0.0)
        chosen[s].append((j, float(d2[j]), float(unspanned.max())))
        available[j] = False
        waiting.discard(s)
        c[t] = (kernel[j] - c[:t, j] @ c[:t]) / d2[j].sqrt()
        d2 = d2 - c[t] ** 2
    if not early_stop:
        remaining = sorted(available.nonzero().flatten().tolist(), key=lambda i: (-float(r[i]), i))
        for _ in range(total - sum(map(len, chosen))):
            j = next((i for i in remaining if int(owner[i]) in waiting), remaining[0])
            remaining.remove(j)
            waiting.discard(int(owner[j]))
            chosen[int(owner[j])].append((j, 0.0, 0.0))
    picks = []
    for own in chosen:
        table = torch.tensor([row[1:] for row in own], dtype=torch.float64, device="cpu").view(-1, 2)
        rows = torch.tensor([row[0] for row in own], dtype=torch.int64, device="cpu")
        picks.append(Picks(rows.to(device), table.to(device)))
    return picks


def full_kernel(features: Tensor, relevance: Tensor, gamma: float | None = None) -> Tensor:
    """``L[i, j] = r[i] · s(X[i], X[j]) · r[j]`` with an exact diagonal, (N, N) float64; ``s`` is the cosine, or with
    ``gamma`` the Gaussian kernel of the directions, ``exp(−γ ‖X[i]/‖X[i]‖ − X[j]/‖X[j]‖‖²)``."""
    peak = features.abs().amax(dim=1, keepdim=True)
    shrunk = features / torch.where(peak > 0, peak, 1.0)
    norm = shrunk.norm(dim=1, keepdim=True)
    unit = shrunk / torch.where(norm > 0, norm, 1.0)
    similarity = unit @ unit.T
    if gamma is not None:
        similarity = torch.exp(-gamma * (2 - 2 * similarity))
    similarity.diagonal().copy_((norm[:, 0] > 0).double())
    return relevance[:, None] * similarity * relevance[None, :]


def greedy_map(kernel: Tensor, k: int, exhausted_below: float) -> tuple[list[int], list[tuple[float, float]]]:
    """Chen, Zhang & Zhou 2018, "Fast Greedy MAP Inference for Determinantal Point Process", Algorithm 1.

    Args:
        kernel: (n, n) float64 kernel matrix L.
        k: picks wanted, at most n.
        exhausted_below: a candidate is exhausted when ``d²[i] <= exhausted_below · L[i, i]``.

    Returns:
        At most k indices in greedy order; fewer when every candidate left is exhausted. And for each its gain and
        the novelty before it, see :class:`~framefusion.selection.plan.Picks`.
    """
    n = kernel.shape[0]
    d2 = kernel.diagonal().clone()
    floor = exhausted_below * d2
    c = torch.zeros(k, n, dtype=torch.float64, device="cpu")
    available = torch.ones(n, dtype=torch.bool, device="cpu")
    diagonal = d2.clone()
    chosen: list[int] = []
    trace: list[tuple[float, float]] = []
    for t in range(k):
        candidates = available & (d2 > floor)
        if not bool(candidates.any()):
            break
        j = int(torch.where(candidates, d2, -torch.inf).argmax())
        unspanned = torch.where(available & (diagonal > 0), d2 / diagonal, 0.0)
        chosen.append(j)
        trace.append((float(d2[j]), float(unspanned.max())))
        available[j] = False
        e = (kernel[j] - c[:t, j] @ c[:t]) / d2[j].sqrt()
        c[t] = e
        d2 = d2 - e**2
    return chosen, trace
