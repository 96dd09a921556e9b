"""The selection's contract, tests/selection, with features on the device and kernels compiled for it."""

from __future__ import annotations

from benchmarks.gpu import suite
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import Record

WORKERS = 8
"""Processes that compile and test; compiling kernels is most of the work."""
REHEARSED = "(test_ties_go or test_stop_returns or test_memory_layout) and not steps"


def run(record: Record, bench: Bench) -> None:
    """All backends that run on the device, against the textbook reference."""
    shared = ["-k", REHEARSED] if bench.rehearsal else ["-n", str(WORKERS), "--dist", "worksteal"]
    suite.run(record, ["tests/selection", "--device", bench.device, *shared])
