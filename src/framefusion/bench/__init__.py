"""Side-by-side measurements of the selection against the ways it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from framefusion.bench.contenders import contenders_on
from framefusion.bench.harness import Measurement, measure
from framefusion.bench.report import Report, environment
from framefusion.bench.workloads import Config
from framefusion.errors import ArgumentError

__all__ = ["CONFIGS", "Config", "Measurement", "Report", "measure", "run"]

CONFIGS = (Config(8, 128, 64, 4096), Config(32, 196, 50, 3584), Config(64, 196, 98, 4096))
"""The standard workloads."""


def run(
    configs: Sequence[Config] | None = None,
    iterations: int = 5,
    threads: int | None = None,
    json_path: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Report:
    """Measure the package's contenders on every workload, in turns.

    Args:
        configs: workloads; None is :data:`CONFIGS` with features of ``dtype``.
        iterations: timed rounds on each workload.
        threads: torch threads; None keeps the present number.
        json_path: where to write the measurements.
        progress: called with a sentence before each slow step.
        device: "cpu" or "cuda".
        dtype: of the features of the standard workloads, "float32" or "bfloat16".

    Returns:
        The report; ``report.table()`` is its plain-text form.

    Raises:
        ValueError: a number below 1, or a file that cannot be written.
    """
    if json_path is not None and not Path(json_path).resolve().parent.is_dir():
        raise ArgumentError(f"cannot write {json_path}: its directory does not exist")
    threads = torch.get_num_threads() if threads is None else threads
    names, rows = contenders_on(device), []
    for config in [replace(config, dtype=dtype) for config in CONFIGS] if configs is None else configs:
        rows += measure(config, names, iterations=iterations, threads=threads, device=device, progress=progress)
    report = Report(rows, environment(threads, device), device)
    if json_path is not None:
        Path(json_path).write_text(report.to_json(), encoding="utf-8")
    return report
