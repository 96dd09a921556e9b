"""Time contenders in turns on one workload, with pinned threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from framefusion.bench.contenders import CONTENDERS, Case, Config, make_case
from framefusion.bench.memory import peak_extra_bytes


@dataclass(frozen=True)
class Measurement:
    """One contender on one workload.

    Attributes:
        config: the workload.
        contender: its name in ``CONTENDERS``.
        median_ms, fastest_ms, slowest_ms: over the timed runs.
        runs: number of timed runs.
        peak_extra_bytes: peak memory beyond the inputs, None where it was not measured.
        equal_share: share of the selected tokens that the baseline selects too; None for the bare Gram matrix
            or without a baseline in the run.
    """

    config: Config
    contender: str
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    runs: int
    peak_extra_bytes: int | None
    equal_share: float | None


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Run with this many torch threads, then restore the number before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    config: Config,
    contenders: Sequence[str],
    *,
    iterations: int = 5,
    threads: int | None = None,
    device: str = "cpu",
    memory: bool = True,
    progress: Callable[[str], None] | None = None,
) -> list[Measurement]:
    """Measure contenders on one workload: one warm-up each, then ``iterations`` rounds in which they take
    turns.

    Args:
        config: the workload.
        contenders: names in ``CONTENDERS``; the first baseline among them is what the others are compared
            with.
        iterations: timed rounds, at least 1.
        threads: torch threads; None keeps the present number.
        device: "cpu" or "cuda".
        memory: measure the peak extra memory too.
        progress: called with a sentence before each slow step.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    say = progress or (lambda _: None)
    say(f"{config.name}: timing {', '.join(contenders)}")
    with pinned_threads(threads):
        results, times = _time(make_case(config, device), contenders, iterations)
    peaks: dict[str, int | None] = dict.fromkeys(contenders)
    if memory:
        say(f"{config.name}: peak memory")
        peaks = peak_extra_bytes(config, contenders, threads, device)
    baseline = next((results[name] for name in ("original", "loop") if name in results), None)
    return [
        Measurement(
            config,
            name,
            statistics.median(times[name]),
            min(times[name]),
            max(times[name]),
            iterations,
            peaks[name],
            equal_share(results[name], baseline),
        )
        for name in contenders
    ]


def _time(
    case: Case, contenders: Sequence[str], iterations: int
) -> tuple[dict[str, list[Tensor]], dict[str, list[float]]]:
    """Results and milliseconds of every contender."""
    results = {name: CONTENDERS[name](case) for name in contenders}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(iterations):
        for name in contenders:
            _synchronise(case.features.device)
            start = time.perf_counter()
            CONTENDERS[name](case)
            _synchronise(case.features.device)
            times[name].append((time.perf_counter() - start) * 1e3)
    return results, times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def equal_share(selected: Sequence[Tensor], baseline: Sequence[Tensor] | None) -> float | None:
    """Share of the baseline's tokens that were selected too, over all samples."""
    if baseline is None or not selected:
        return None
    common = sum(int(torch.isin(b, s).sum()) for s, b in zip(selected, baseline, strict=True))
    total = sum(b.numel() for b in baseline)
    return common / total if total else 1.0
