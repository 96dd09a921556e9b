"""How time grows with one size of the workload: the sweeps, and exponents fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from framefusion.bench.harness import Measurement, measure
from framefusion.bench.workloads import Config
from framefusion.errors import ArgumentError

FEWEST_POINTS = 3
"""Points that an exponent is fitted to at least."""

SWEEP_ITERATIONS = 3
"""Timed rounds of a sweep at most."""


@dataclass(frozen=True)
class Sweep:
    """Workloads that differ in one size.

    Attributes:
        axis: the size that grows, in words; all but the width of the features is said there.
        attribute: of :class:`Config`, which holds it.
        configs: the workloads, in ascending order.
        contenders: who takes part.
        up_to: the largest size at which a contender takes part; without an entry, all.
        memory: whether peak memory is measured too.
    """

    axis: str
    attribute: str
    configs: tuple[Config, ...]
    contenders: tuple[str, ...]
    up_to: dict[str, int] = field(default_factory=dict)
    memory: bool = False

    def size(self, config: Config) -> int:
        """The growing size of a workload."""
        size: int = getattr(config, self.attribute)
        return size

    def present(self, config: Config) -> list[str]:
        """Contenders that take part at a workload."""
        return [name for name in self.contenders if self.size(config) <= self.up_to.get(name, self.size(config))]

    def smaller(self, points: int = 3, dim: int = 512) -> Sweep:
        """Its first workloads with narrow features: for trying things out."""
        if self.attribute == "dim":
            return replace(self, configs=self.configs[:points])
        return replace(self, configs=tuple(replace(config, dim=dim) for config in self.configs[:points]))


_ALL = ("original", "loop", "numpy", "openvino", "torch", "numba", "gram")

SWEEPS: dict[str, Sweep] = {
    "frames": Sweep(
        "frames (segments) of 196 tokens, 98 kept",
        "segments",
        tuple(Config(frames, 196, 98, 4096) for frames in (4, 8, 16, 32, 64, 128, 256)),
        _ALL,
        up_to={"original": 64, "numpy": 64, "loop": 128},
        memory=True,
    ),
    "tokens": Sweep(
        "tokens per segment, 8 segments, 32 kept",
        "tokens",
        tuple(Config(8, tokens, 32, 1024) for tokens in (64, 128, 256, 512, 1024, 2048)),
        _ALL,
        up_to={"original": 1024},
    ),
    "keep": Sweep(
        "tokens kept per segment, 8 segments of 1024",
        "keep",
        tuple(Config(8, 1024, keep, 1024) for keep in (16, 32, 64, 128, 256, 512)),
        _ALL,
        up_to={"original": 128},
    ),
    "dim": Sweep(
        "width D of the features, 16 segments of 196, 49 kept",
        "dim",
        tuple(Config(16, 196, 49, dim) for dim in (256, 512, 1024, 2048, 4096, 8192)),
        _ALL,
    ),
    "batch": Sweep(
        "samples of 8 segments of 196 tokens, 49 kept",
        "batch",
        tuple(Config(8, 196, 49, 1024, batch) for batch in (1, 2, 4, 8, 16)),
        _ALL,
    ),
    "segments": Sweep(
        "segments of 4096 tokens in all, 512 kept in all",
        "segments",
        tuple(Config(segments, 4096 // segments, 512 // segments, 1024) for segments in (1, 2, 4, 8, 16, 32, 64)),
        _ALL,
    ),
}
"""All sweeps by name."""


@dataclass(frozen=True)
class Fit:
    """A power law ``time ∝ size ** exponent``.

    Attributes:
        exponent: slope of the least-squares line through the logarithms.
        first, last: the range of sizes that it was fitted to.
        points: how many.
    """

    exponent: float
    first: int
    last: int
    points: int


def fit_exponent(sizes: Sequence[int], times: Sequence[float]) -> Fit | None:
    """Fit a power law to the larger half of the points, but to :data:`FEWEST_POINTS` at least.

    Fixed costs bend the curve at small sizes, so only the large ones say how it grows.

    Args:
        sizes: ascending, above 0.
        times: one for each size, above 0.

    Returns:
        The fit; None with fewer than :data:`FEWEST_POINTS` points.
    """
    if len(sizes) != len(times):
        raise ArgumentError(f"sizes and times must be equally many, got {len(sizes)} and {len(times)}")
    if len(sizes) < FEWEST_POINTS:
        return None
    points = max(FEWEST_POINTS, math.ceil(len(sizes) / 2))
    xs = [math.log(size) for size in sizes[-points:]]
    ys = [math.log(time) for time in times[-points:]]
    x_mean, y_mean = sum(xs) / points, sum(ys) / points
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)
    return Fit(slope, sizes[-points], sizes[-1], points)


def measure_sweep(
    sweep: Sweep,
    contenders: Sequence[str],
    iterations: int,
    threads: int,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> list[Measurement]:
    """Measure those of the contenders that take part in a sweep, on each of its workloads; see :func:`measure`."""
    rows: list[Measurement] = []
    for config in sweep.configs:
        rows += measure(
            config,
            [name for name in sweep.present(config) if name in contenders],
            iterations=iterations,
            threads=threads,
            device=device,
            memory=sweep.memory,
            progress=progress,
        )
    return rows
