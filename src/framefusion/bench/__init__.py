"""Side-by-side measurements of the selection against the ways it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from framefusion.bench.contenders import BASICS, PEERS, contenders_on, split_installed
from framefusion.bench.harness import Measurement, measure
from framefusion.bench.report import BenchReport, environment, require_matplotlib
from framefusion.bench.scaling import SWEEPS, Sweep
from framefusion.bench.workloads import Config
from framefusion.errors import ArgumentError

__all__ = ["CONFIGS", "SWEEPS", "BenchReport", "Config", "Measurement", "Sweep", "measure", "measure_sweep", "run"]

CONFIGS = (Config(8, 128, 64, 4096), Config(32, 196, 50, 3584), Config(64, 196, 98, 4096))
"""The standard workloads."""

SWEEP_ITERATIONS = 3
"""Timed rounds of a sweep at most."""


def run(
    configs: Sequence[Config] | None = None,
    sweep: bool = True,
    iterations: int = 5,
    threads: int | None = None,
    json_path: str | Path | None = None,
    plot_path: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    peers: bool = False,
) -> BenchReport:
    """Measure every contender on every workload, in turns.

    Args:
        configs: workloads; None is :data:`CONFIGS` with features of ``dtype``.
        sweep: also measure growing numbers of frames (``SWEEPS["frames"]``), with at most 3 timed rounds each.
        iterations: timed rounds on each workload.
        threads: torch threads; None keeps the present number.
        json_path: where to write the measurements.
        plot_path: where to write a plot of the sweep; needs ``sweep`` and the extra ``plot``.
        progress: called with a sentence before each slow step.
        device: "cpu" or "cuda".
        dtype: of the features of the standard workloads, "float32" or "bfloat16".
        peers: also measure the packages of the extra ``bench``; those that are not installed are named in the report.

    Returns:
        The report; ``report.table()`` is its plain-text form.

    Raises:
        ValueError: a plot without a sweep, or a number below 1.
        ImportError: a plot without matplotlib.
    """
    if plot_path is not None:
        if not sweep:
            raise ArgumentError("plot_path needs sweep=True: the plot shows the sweep")
        require_matplotlib()
    for path in (json_path, plot_path):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise ArgumentError(f"cannot write {path}: its directory does not exist")
    threads = torch.get_num_threads() if threads is None else threads
    names, absent = split_installed(contenders_on(device, (*BASICS, *PEERS) if peers else BASICS))
    rows: list[Measurement] = []
    for config in [replace(config, dtype=dtype) for config in CONFIGS] if configs is None else configs:
        rows += measure(config, names, iterations=iterations, threads=threads, device=device, progress=progress)
    sweeps = {}
    if sweep:
        rounds = min(iterations, SWEEP_ITERATIONS)
        sweeps["frames"] = measure_sweep(SWEEPS["frames"], names, rounds, threads, device, progress)
    report = BenchReport(rows, sweeps, environment(threads, device), device, absent)
    if json_path is not None:
        Path(json_path).write_text(report.to_json(), encoding="utf-8")
    if plot_path is not None:
        report.plot(plot_path)
    return report


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
