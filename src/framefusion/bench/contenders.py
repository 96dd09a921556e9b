"""The workloads of the bench and the ways to select tokens that take turns on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.bench.baselines import original_global_matrix, per_segment_loop
from framefusion.relevance import min_max
from framefusion.selection import select_tokens
from framefusion.selection.api import resolve_backend


@dataclass(frozen=True)
class Config:
    """One workload: segments of equal length, float32 features.

    Attributes:
        segments: number of temporal segments.
        tokens: visual tokens of each segment.
        keep: tokens to keep of each segment.
        dim: width D of the features.
        batch: samples.
        outside: further tokens that belong to no segment.
    """

    segments: int
    tokens: int
    keep: int
    dim: int
    batch: int = 1
    outside: int = 0

    def __post_init__(self) -> None:
        for name in ("segments", "tokens", "keep", "dim", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.outside < 0:
            raise ValueError(f"outside must be >= 0, got {self.outside}")

    @property
    def name(self) -> str:
        batch = f"{self.batch} × " if self.batch > 1 else ""
        return f"{batch}{self.segments}×{self.tokens}→{self.keep}, D {self.dim}"


@dataclass(frozen=True)
class Case:
    """The tensors of one workload.

    Attributes:
        config: what it was made from.
        features: (B, N, D) float32.
        attention: (B, N) float32, positive.
        ids: (N,) int64 segment ids on the CPU, −1 outside every segment.
    """

    config: Config
    features: Tensor
    attention: Tensor
    ids: Tensor

    def rows(self) -> list[Tensor]:
        """Positions of each segment's tokens, on the features' device."""
        n = self.config.tokens
        device = self.features.device
        return [torch.arange(s * n, (s + 1) * n, device=device) for s in range(self.config.segments)]


def make_case(config: Config, device: str = "cpu", seed: int = 0) -> Case:
    """Random tokens, redundant as those of a video: those of a segment share a direction."""
    generator = torch.Generator().manual_seed(seed)
    inside = config.segments * config.tokens
    ids = torch.full((inside + config.outside,), -1)
    ids[:inside] = torch.arange(config.segments).repeat_interleave(config.tokens)
    features = torch.randn(config.batch, len(ids), config.dim, generator=generator)
    common = torch.randn(config.segments, config.dim, generator=generator)
    features[:, :inside] += common.repeat_interleave(config.tokens, dim=0)
    attention = torch.rand(config.batch, len(ids), generator=generator)
    return Case(config, features.to(device), attention.to(device), ids)


def _select(case: Case, backend: str) -> list[Tensor]:
    relevance = torch.stack([min_max(received, -1) for received in case.attention])
    budgets = [case.config.keep] * case.config.segments
    kept = select_tokens(case.features, relevance, case.ids, budgets, backend=backend)
    return list(kept)


def _bare_gram(case: Case) -> list[Tensor]:
    inside = case.config.segments * case.config.tokens
    x = case.features[:, :inside].reshape(-1, case.config.tokens, case.config.dim)
    torch.bmm(x, x.mT)
    return []


CONTENDERS: dict[str, Callable[[Case], list[Tensor]]] = {
    "original": lambda case: list(original_global_matrix(case.features, case.attention, case.rows(), case.config.keep)),
    "loop": lambda case: list(per_segment_loop(case.features, case.attention, case.rows(), case.config.keep)),
    "torch": lambda case: _select(case, "torch"),
    "numba": lambda case: _select(case, "numba"),
    "triton": lambda case: _select(case, "triton"),
    "gram": _bare_gram,
}
"""Each takes a case and returns one (K,) tensor per sample; the bare Gram matrix selects nothing."""

LABELS = {
    "original": "original (global matrix)",
    "loop": "per-segment loop",
    "torch": "select_tokens, torch",
    "numba": "select_tokens, numba",
    "triton": "select_tokens, triton",
    "gram": "Gram matrix alone",
}


def contenders_on(device: str) -> list[str]:
    """Names of the contenders that run on a device."""
    ours = ours_on(device)
    return [name for name in CONTENDERS if name not in ("numba", "triton") or name == ours]


def ours_on(device: str) -> str:
    """The contender that ``backend="auto"`` takes on a device."""
    return resolve_backend("auto", torch.device(device))
