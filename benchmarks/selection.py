"""The whole measurement of the selection: writes the page of benchmarks, its data and its pictures.

    python -m benchmarks.selection                 # docs/results/benchmarks.md, data/bench-selection.json, images
    python -m benchmarks.selection --from-json     # the page and the pictures again, without measuring
    python -m benchmarks.selection --aims          # the aims on the standard workloads, printed; writes nothing
    python -m benchmarks.selection --small --out /tmp/try --long-tokens 8192

Run from the root of the repository. Other packages are measured where the extra ``bench`` is installed and named as
absent where it is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contenders import PEERS, split_installed
from benchmarks.page import OURS, aims, aims_table, page
from benchmarks.report import BenchReport
from benchmarks.scaling import SWEEP_ITERATIONS, SWEEPS, Sweep, measure_sweep
from framefusion.bench import CONFIGS, Config, measure
from framefusion.bench.contenders import contenders_on
from framefusion.bench.report import environment
from framefusion.evaluation.plots import require_matplotlib

DOCS = Path(__file__).resolve().parent.parent / "docs"
DATA, PICTURE, SCALING_PICTURE, PAGE = (
    "data/bench-selection.json",
    "images/bench-selection.png",
    "images/bench-scaling.png",
    "results/benchmarks.md",
)

HALF = tuple(replace(config, dtype="bfloat16") for config in CONFIGS)
HALF_CONTENDERS = ("loop", "torch", "numba", "gram", "gram-bf16")
LONG = Config(1, 100_000, 800, 1024)
LONG_QUICK = Config(1, 16_384, 256, 1024)
LONG_CONTENDERS = ("numba", "stream")
LONG_ROUNDS = 3


@dataclass(frozen=True)
class Job:
    """Contenders that are measured on one workload."""

    config: Config
    contenders: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class Programme:
    """Everything that one run measures."""

    jobs: tuple[Job, ...]
    sweeps: dict[str, Sweep]
    sweep_rounds: int


def programme(rounds: int, long_tokens: int, small: bool) -> Programme:
    """The full programme; ``small`` has the same parts at sizes that take seconds."""
    long = replace(LONG, tokens=long_tokens)
    jobs = [
        *(Job(config, (*contenders_on("cpu"), *PEERS), rounds) for config in CONFIGS),
        *(Job(config, HALF_CONTENDERS, rounds) for config in HALF),
        Job(LONG_QUICK, LONG_CONTENDERS, rounds),
        Job(long, LONG_CONTENDERS, min(rounds, LONG_ROUNDS)),
    ]
    sweeps = SWEEPS
    if small:
        jobs = [replace(job, config=_smaller(job.config)) for job in jobs]
        sweeps = {name: sweep.smaller() for name, sweep in SWEEPS.items()}
    return Programme(tuple(jobs), sweeps, min(rounds, SWEEP_ITERATIONS))


def only_aims(plan: Programme) -> Programme:
    """What the aims on the standard workloads need of a programme."""
    jobs = []
    for job in plan.jobs[: len(CONFIGS)]:
        bases = tuple(aim.base for aim in aims(LONG) if aim.config.segments == job.config.segments)
        jobs.append(replace(job, contenders=(OURS, *bases)))
    return Programme(tuple(jobs), {}, plan.sweep_rounds)


def _smaller(config: Config) -> Config:
    """A workload at a sixteenth of the width and at most 8 segments and 64 kept."""
    return replace(config, segments=min(config.segments, 8), keep=min(config.keep, 64), dim=config.dim // 16)


def run(plan: Programme, threads: int, progress: Callable[[str], None]) -> BenchReport:
    """Measure a programme on the CPU, peers in turns."""
    installed, absent = split_installed(tuple(dict.fromkeys(name for job in plan.jobs for name in job.contenders)))
    rows = []
    for job in plan.jobs:
        present = [name for name in job.contenders if name in installed]
        rows += measure(job.config, present, iterations=job.rounds, threads=threads, progress=progress)
    sweeps = {
        name: measure_sweep(sweep, installed, plan.sweep_rounds, threads, progress=progress)
        for name, sweep in plan.sweeps.items()
    }
    return BenchReport(rows, environment(threads, "cpu"), "cpu", sweeps, absent)


def load(path: Path) -> BenchReport:
    """Read the data of an earlier run.

    Raises:
        ValueError: the file was written by a version that did not keep the time of every round, or is not there.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; write it with make bench")
    plain = json.loads(path.read_text(encoding="utf-8"))
    if "sweeps" not in plain:
        raise ValueError(f"{path} is of an older format; write it anew with make bench")
    return BenchReport.from_dict(plain)


def earlier(path: Path) -> BenchReport:
    """Read the data of an earlier run; without usable ones, an empty report and a warning."""
    try:
        return load(path)
    except ValueError as error:
        print(f"warning: no measurements: {error}", file=sys.stderr)
        return BenchReport([])


def write(report: BenchReport, out: Path) -> None:
    """Write the pictures and the page."""
    if "frames" in report.sweeps:
        report.plot(out / PICTURE)
    if report.sweeps:
        report.plot_scaling(out / SCALING_PICTURE)
    prefill = out / "data" / "prefill.json"
    plain = json.loads(prefill.read_text(encoding="utf-8")) if prefill.exists() else None
    (out / PAGE).write_text(page(report, plain), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or read, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS, help="where data/, images/ and results/ go; default: docs")
    parser.add_argument("--from-json", action="store_true", help="do not measure, read the data that are there")
    parser.add_argument(
        "--aims", action="store_true", help="only the aims on the standard workloads; nothing is written"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; sweeps and the long segment take 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--long-tokens", type=int, default=LONG.tokens, help="tokens of the long segment")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the harness out")
    args = parser.parse_args(arguments)
    plan = programme(args.rounds, args.long_tokens, args.small)
    if args.aims:
        print(aims_table(run(only_aims(plan), args.threads, lambda _: None)))
        return
    for folder in ("data", "images", "results"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    require_matplotlib()
    if args.from_json:
        report = earlier(args.out / DATA)
    else:
        report = run(plan, args.threads, lambda sentence: print(sentence, file=sys.stderr, flush=True))
        (args.out / DATA).write_text(report.to_json(), encoding="utf-8")
        print(report.table())
    write(report, args.out)


if __name__ == "__main__":
    main()
