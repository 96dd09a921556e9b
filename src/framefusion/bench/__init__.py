"""Side-by-side measurements of the selection against the ways it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from framefusion.bench.contenders import Config, contenders_on
from framefusion.bench.harness import Measurement, measure
from framefusion.bench.report import BenchReport, environment, require_matplotlib

__all__ = ["CONFIGS", "SWEEP_FRAMES", "BenchReport", "Config", "Measurement", "measure", "run"]

CONFIGS = (Config(8, 128, 64, 4096), Config(32, 196, 50, 3584), Config(64, 196, 98, 4096))
"""The standard workloads."""

SWEEP_FRAMES = (4, 8, 16, 32, 64, 128, 256)
"""Numbers of frames of 196 tokens (98 kept, D 4096) in the sweep."""

ORIGINAL_UP_TO = 64
"""Frames up to which the sweep runs the original: its matrices over all tokens grow with the square."""


def run(
    configs: Sequence[Config] | None = None,
    sweep: bool = True,
    iterations: int = 5,
    threads: int | None = None,
    json_path: str | Path | None = None,
    plot_path: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    device: str = "cpu",
) -> BenchReport:
    """Measure every contender on every workload, in turns.

    Args:
        configs: workloads; None is :data:`CONFIGS`.
        sweep: also measure growing numbers of frames (:data:`SWEEP_FRAMES`), with at most 3 timed runs each.
        iterations: timed runs of each contender on each workload.
        threads: torch threads; None keeps the present number.
        json_path: where to write the measurements.
        plot_path: where to write a plot of the sweep; needs ``sweep`` and the extra ``plot``.
        progress: called with a sentence before each slow step.
        device: "cpu" or "cuda".

    Returns:
        The report; ``report.table()`` is its plain-text form.

    Raises:
        ValueError: a plot without a sweep, or a number below 1.
        ImportError: a plot without matplotlib.
    """
    if plot_path is not None:
        if not sweep:
            raise ValueError("plot_path needs sweep=True: the plot shows the sweep")
        require_matplotlib()
    for path in (json_path, plot_path):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise ValueError(f"cannot write {path}: its directory does not exist")
    threads = torch.get_num_threads() if threads is None else threads
    names = contenders_on(device)
    rows: list[Measurement] = []
    for config in CONFIGS if configs is None else configs:
        rows += measure(config, names, iterations=iterations, threads=threads, device=device, progress=progress)
    grown: list[Measurement] = []
    for frames in SWEEP_FRAMES if sweep else ():
        present = [name for name in names if name != "original" or frames <= ORIGINAL_UP_TO]
        grown += measure(
            Config(frames, 196, 98, 4096),
            present,
            iterations=min(iterations, 3),
            threads=threads,
            device=device,
            progress=progress,
        )
    report = BenchReport(rows, grown, environment(threads, device), device)
    if json_path is not None:
        Path(json_path).write_text(report.to_json(), encoding="utf-8")
    if plot_path is not None:
        report.plot(plot_path)
    return report
