"""The workloads of the bench: random tokens of a given size, redundant as those of a video."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from framefusion.errors import ArgumentError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Feature dtypes by the name that a workload gives them."""


@dataclass(frozen=True)
class Config:
    """One workload: segments of equal length.

    Attributes:
        segments: number of temporal segments.
        tokens: visual tokens of each segment.
        keep: tokens to keep of each segment.
        dim: width D of the features.
        batch: samples.
        outside: further tokens that belong to no segment.
        dtype: of the features, a name in :data:`DTYPES`.
    """

    segments: int
    tokens: int
    keep: int
    dim: int
    batch: int = 1
    outside: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("segments", "tokens", "keep", "dim", "batch"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.outside < 0:
            raise ArgumentError(f"outside must be >= 0, got {self.outside}")
        if self.dtype not in DTYPES:
            raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def name(self) -> str:
        """The workload in a few signs; float32 goes without saying."""
        batch = f"{self.batch} × " if self.batch > 1 else ""
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"{batch}{self.segments}×{self.tokens}→{self.keep}, D {self.dim}{dtype}"


@dataclass(frozen=True)
class Case:
    """The tensors of one workload.

    Attributes:
        config: what it was made from.
        features: (B, N, D) of the workload's dtype.
        attention: (B, N) float32, positive.
        ids: (N,) int64 segment ids on the CPU, −1 outside every segment.
    """

    config: Config
    features: Tensor
    attention: Tensor
    ids: Tensor
    _copies: dict[torch.dtype, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rows(self) -> list[Tensor]:
        """Positions of each segment's tokens, on the features' device."""
        n = self.config.tokens
        device = self.features.device
        return [torch.arange(s * n, (s + 1) * n, device=device) for s in range(self.config.segments)]

    def by_segment(self, values: Tensor) -> Tensor:
        """Values of the tokens, (B, N, …), as one row of equal parts: (B · segments, tokens, …)."""
        inside = self.config.segments * self.config.tokens
        return values[:, :inside].unflatten(1, (self.config.segments, self.config.tokens)).flatten(0, 1)

    def features_as(self, dtype: torch.dtype) -> Tensor:
        """The features in another dtype, converted at the first call and then held: not part of what is timed."""
        if dtype == self.features.dtype:
            return self.features
        if dtype not in self._copies:
            self._copies[dtype] = self.features.to(dtype)
        return self._copies[dtype]


def make_case(config: Config, device: str = "cpu", seed: int = 0) -> Case:
    """Random tokens, redundant as those of a video: those of a segment share a direction."""
    generator = torch.Generator().manual_seed(seed)
    inside = config.segments * config.tokens
    ids = torch.full((inside + config.outside,), -1)
    ids[:inside] = torch.arange(config.segments).repeat_interleave(config.tokens)
    features = torch.randn(config.batch, len(ids), config.dim, generator=generator)
    common = torch.randn(config.segments, config.dim, generator=generator)
    features[:, :inside].unflatten(1, (config.segments, config.tokens)).add_(common[:, None])
    attention = torch.rand(config.batch, len(ids), generator=generator)
    return Case(config, features.to(device, DTYPES[config.dtype]), attention.to(device), ids)
