"""Has the selection become slower? A quick part of the benchmark, its ratios compared with the committed ones.

    python -m benchmarks.check                     # against docs/data/bench-selection.json, less than two minutes

Only ratios of contenders of the same round are compared, never times. Exit status 1 and a table where most ratios of
one of our backends are above the committed ones beyond noise in two measurements in a row, else 0; 2 where there is
nothing to compare with.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.report import BenchReport
from benchmarks.selection import CONFIGS, DATA, DOCS, HALF, LONG_QUICK, load
from framefusion.bench import Config, Measurement, measure
from framefusion.bench.contenders import label
from framefusion.bench.report import environment

LEAST_TOLERANCE = 0.25
"""A ratio may always be higher than the committed one by this share of it."""

DEVIATIONS = 3.0
"""Standard deviations of the committed rounds that a ratio may be higher."""

MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution with median absolute deviation 1."""

OURS = ("numba", "torch")
BASES = ("gram", "loop", "original", "stream")
QUICK: dict[Config, tuple[str, ...]] = {
    CONFIGS[0]: ("original", "loop", "torch", "numba", "gram"),
    CONFIGS[1]: ("original", "loop", "torch", "numba", "gram"),
    CONFIGS[2]: ("loop", "torch", "numba", "gram"),
    HALF[2]: ("torch", "numba", "gram"),
    LONG_QUICK: ("numba", "stream"),
}
"""What is measured again."""

SAME = ("device", "threads", "torch", "numba")
"""Parts of the environment that ratios depend on."""


@dataclass(frozen=True)
class Comparison:
    """One ratio, committed and present.

    Attributes:
        config: the workload.
        contender, base: the two whose times are related.
        committed, present: medians over rounds of the ratio of the two times.
        tolerance: share by which the present one may be higher.
    """

    config: Config
    contender: str
    base: str
    committed: float
    present: float
    tolerance: float

    @property
    def change(self) -> float:
        """By what share the present ratio is higher; negative where it is lower."""
        return self.present / self.committed - 1

    @property
    def slower(self) -> bool:
        """Whether that is beyond noise."""
        return self.change > self.tolerance


def tolerance(ratios: Sequence[float]) -> float:
    """Share of the median by which another median may be higher, from the spread of the rounds.

    Three standard deviations, estimated by the median absolute deviation so that one disturbed round does not
    count, and at least :data:`LEAST_TOLERANCE`.
    """
    middle = statistics.median(ratios)
    deviation = MAD_TO_DEVIATION * statistics.median(abs(each - middle) for each in ratios)
    return max(LEAST_TOLERANCE, DEVIATIONS * deviation / middle)


def compare(committed: BenchReport, present: BenchReport) -> list[Comparison]:
    """Every ratio of ours to a base that both reports hold."""
    found = []
    for config in present.configs():
        before, now = committed.of(config), present.of(config)
        both = [name for name in now if name in before]
        for contender in (name for name in OURS if name in both):
            for base in (name for name in BASES if name in both):
                ratios = before[contender].ratios(before[base])
                found.append(
                    Comparison(
                        config,
                        contender,
                        base,
                        statistics.median(ratios),
                        now[contender].ratio(now[base]),
                        tolerance(ratios),
                    )
                )
    return found


def slow_downs(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons that are beyond noise, of contenders for which most of a workload's bases say so.

    What makes a contender slower raises its ratio to every base; what made one base faster raises one.
    """
    found = []
    for key in dict.fromkeys((c.config, c.contender) for c in comparisons):
        own = [c for c in comparisons if (c.config, c.contender) == key]
        slower = [c for c in own if c.slower]
        if 2 * len(slower) > len(own):
            found += slower
    return found


def check(
    committed: BenchReport, measured: Callable[[Sequence[Config]], BenchReport]
) -> tuple[list[Comparison], list[Comparison]]:
    """Compare, and measure workloads that look slower once more before believing it.

    Args:
        committed: the report to compare with.
        measured: measures the given workloads.

    Returns:
        All comparisons, of the second measurement where there was one, and the slow-downs among them of contenders
        that were slower both times.
    """
    first = compare(committed, measured(list(QUICK)))
    suspects = {(c.config, c.contender) for c in slow_downs(first)}
    if not suspects:
        return first, []
    again = compare(committed, measured([config for config in QUICK if config in {key[0] for key in suspects}]))
    second = {(c.config, c.contender, c.base): c for c in again}
    latest = [second.get((c.config, c.contender, c.base), c) for c in first]
    return latest, [c for c in slow_downs(latest) if (c.config, c.contender) in suspects]


def differences(committed: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """In a sentence each, how the machine differs from the one that was measured."""
    return [
        f"{name}: {committed.get(name)} when it was measured, {present.get(name)} here"
        for name in SAME
        if committed.get(name) != present.get(name)
    ]


def lines(comparisons: Sequence[Comparison]) -> list[str]:
    """Comparisons as plain text, one a line."""
    return [
        f"{c.config.name:28} {label(c.contender):21} / {label(c.base):26} "
        f"committed {c.committed:8.3f}  present {c.present:8.3f}  {c.change:+7.1%} (noise up to {c.tolerance:.0%})"
        for c in comparisons
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=DOCS / DATA, help="the committed measurements")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    try:
        committed = load(args.json)
    except ValueError as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return 2
    threads = committed.environment["threads"]
    here = environment(threads, "cpu")
    for sentence in differences(committed.environment, here):
        print(f"warning: ratios may differ, {sentence}", file=sys.stderr)

    def measured(configs: Sequence[Config]) -> BenchReport:
        rows: list[Measurement] = []
        for config in configs:
            print(f"{config.name}: timing {', '.join(QUICK[config])}", file=sys.stderr, flush=True)
            rows += measure(config, QUICK[config], iterations=args.rounds, threads=threads, memory=False)
        return replace(committed, rows=rows, sweeps={}, environment=here)

    found, slower = check(committed, measured)
    if not found:
        print(f"bench-check: {args.json} holds none of the workloads; write it anew with make bench", file=sys.stderr)
        return 2
    print("\n".join(lines(found)))
    if slower:
        print("\nslower than committed, twice in a row:\n" + "\n".join(lines(slower)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
