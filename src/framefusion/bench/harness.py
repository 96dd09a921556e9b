"""Time contenders in turns on one workload, with pinned threads."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framefusion.bench.contenders import CONTENDERS
from framefusion.bench.memory import peak_extra_bytes
from framefusion.bench.workloads import Case, Config, make_case
from framefusion.errors import ArgumentError
from framefusion.selection import warm_up

TURN_MS = 20.0
"""A turn calls its contender as often as it takes to last this long, and its time is the mean of the calls."""

MOST_CALLS = 20
"""Calls of one turn at most."""

SLOW_MS = 1000.0
"""A contender whose first call takes longer is not called a second time before it is timed."""


@dataclass(frozen=True)
class Measurement:
    """One contender on one workload.

    Attributes:
        config: the workload.
        contender: its name in ``CONTENDERS``.
        times_ms: milliseconds of every timed round, in the order of the rounds: entry ``i`` of two contenders of
            one workload were measured next to one another.
        peak_extra_bytes: peak memory beyond the inputs, None where it was not measured.
        equal_share: share of the baseline's tokens that were selected too; None where tokens are not to be compared, or
            without a baseline in the run.
    """

    config: Config
    contender: str
    times_ms: tuple[float, ...]
    peak_extra_bytes: int | None = None
    equal_share: float | None = None

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def fastest_ms(self) -> float:
        return min(self.times_ms)

    @property
    def slowest_ms(self) -> float:
        return max(self.times_ms)

    @property
    def runs(self) -> int:
        return len(self.times_ms)

    def ratios(self, base: Measurement) -> list[float]:
        """Its time over that of another contender of the same workload, round by round."""
        return [mine / other for mine, other in zip(self.times_ms, base.times_ms, strict=True)]

    def ratio(self, base: Measurement) -> float:
        """The median of :meth:`ratios`: what slows a whole round down does not change it."""
        return statistics.median(self.ratios(base))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the workload's sizes beside the results."""
        plain = asdict(self)
        plain["times_ms"] = [round(each, 4) for each in self.times_ms]
        return {**plain.pop("config"), **plain, "median_ms": self.median_ms, "fastest_ms": self.fastest_ms}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Measurement:
        """The inverse of :meth:`to_dict`, up to rounding."""
        config = Config(**{name: row[name] for name in Config.__dataclass_fields__})
        return cls(config, row["contender"], tuple(row["times_ms"]), row["peak_extra_bytes"], row["equal_share"])


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Run with this many threads of torch, and of the BLAS that NumPy and SciPy call where ``threadpoolctl`` is
    installed; then restore the numbers before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _pinned_blas(threads):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _pinned_blas(threads: int) -> Iterator[None]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(threads, user_api="blas"):
        yield


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
    """Measure contenders on one workload: a warm-up each, then ``iterations`` rounds in which each has one turn.

    The order of the turns changes from round to round, the same way in every run. A turn repeats short contenders, see
    :data:`TURN_MS`.

    Args:
        config: the workload.
        contenders: names in ``CONTENDERS`` that can run here; the first baseline among them is what the others are
            compared with. Where the features are not float32, the comparison is with the per-segment loop on the
            same values in float32.
        iterations: timed rounds, at least 1.
        threads: threads of torch and BLAS; None keeps torch's present number.
        device: "cpu" or "cuda".
        memory: measure the peak extra memory too.
        progress: called with a sentence before each slow step.

    Raises:
        ValueError: a number below 1, or a name that is no contender.
    """
    if iterations < 1:
        raise ArgumentError(f"iterations must be at least 1, got {iterations}")
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ArgumentError(f"threads must be at least 1, got {threads}")
    unknown = [name for name in contenders if name not in CONTENDERS]
    if unknown:
        raise ArgumentError(f"contenders must be of {', '.join(CONTENDERS)}, got {', '.join(unknown)}")
    say = progress or (lambda _: None)
    say(f"{config.name}: timing {', '.join(contenders)}")
    with pinned_threads(threads):
        case = make_case(config, device)
        results, times = _time(case, contenders, iterations)
        baseline = _baseline(case, results)
    del case
    peaks: dict[str, int | None] = dict.fromkeys(contenders)
    if memory:
        say(f"{config.name}: peak memory")
        peaks = peak_extra_bytes(config, contenders, threads, device)
    return [
        Measurement(config, name, tuple(times[name]), peaks[name], equal_share(results[name], baseline))
        for name in contenders
    ]


def _time(
    case: Case, contenders: Sequence[str], iterations: int
) -> tuple[dict[str, list[Tensor]], dict[str, list[float]]]:
    """Results and milliseconds of every contender."""
    if "numba" in contenders:
        warm_up()
    results: dict[str, list[Tensor]] = {}
    calls: dict[str, int] = {}
    for name in contenders:
        start = time.perf_counter()
        results[name] = CONTENDERS[name].run(case)
        _synchronise(case.features.device)
        calls[name] = 1 if (time.perf_counter() - start) * 1e3 > SLOW_MS else _calls(case, name)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(iterations):
        for name in random.Random(turn).sample(list(contenders), len(contenders)):
            times[name].append(_turn(case, name, calls[name]) * CONTENDERS[name].times(case.config))
    return results, times


def _calls(case: Case, name: str) -> int:
    """How often a turn calls a contender, by one more untimed call."""
    needed = TURN_MS / max(_turn(case, name, 1), 1e-3)
    return max(1, min(MOST_CALLS, math.ceil(needed)))


def _turn(case: Case, name: str, calls: int) -> float:
    """Mean milliseconds of consecutive calls."""
    run = CONTENDERS[name].run
    _synchronise(case.features.device)
    start = time.perf_counter()
    for _ in range(calls):
        run(case)
    _synchronise(case.features.device)
    return (time.perf_counter() - start) * 1e3 / calls


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _baseline(case: Case, results: dict[str, list[Tensor]]) -> list[Tensor] | None:
    """What selections are compared with: the original's or the loop's, in float32 whatever the features are."""
    name = next((name for name in ("original", "loop") if name in results), None)
    if name is None or case.features.dtype == torch.float32:
        return None if name is None else results[name]
    return CONTENDERS["loop"].run(replace(case, features=case.features.float()))


def equal_share(selected: Sequence[Tensor], baseline: Sequence[Tensor] | None) -> float | None:
    """Share of the baseline's tokens that were selected too, over all samples."""
    if baseline is None or not selected:
        return None
    common = sum(int(torch.isin(b, s).sum()) for s, b in zip(selected, baseline, strict=True))
    total = sum(b.numel() for b in baseline)
    return common / total if total else 1.0
