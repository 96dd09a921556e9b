"""The plugin of vLLM, where vLLM is installed."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.gpu import suite
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.record import Absent, Record


def run(record: Record, bench: Bench) -> None:
    """Its tests, on vLLM's runner for the device."""
    if find_spec("vllm") is None:
        raise Absent("vLLM is not installed here")
    suite.run(record, ["tests/vllm"])
