"""The result of a bench run as a table and JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from framefusion._version import __version__
from framefusion.bench.contenders import label, ours_on
from framefusion.bench.harness import Measurement
from framefusion.bench.workloads import Config

MIB = 1 << 20
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""What a CPU can do that decides how fast the products of these contenders are."""


def environment(threads: int, device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "framefusion": __version__,
        "torch": torch.__version__,
        "numba": numba.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _cpu_name(),
        "threads": threads,
    }


def _cpu_name() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join([f"{platform.machine()} CPU, {capability}", *_cpu_flags()])


def _cpu_flags() -> list[str]:
    """Those of :data:`CPU_FLAGS` that Linux reports for this CPU; none elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return []
    line = next((line for line in info.read_text().splitlines() if line.lower().startswith(("flags", "features"))), "")
    present = line.split()
    return [flag for flag in CPU_FLAGS if flag in present]


@dataclass(frozen=True)
class Report:
    """Measurements of one run.

    Attributes:
        rows: the fixed configurations, one row per workload and contender.
        environment: versions, device and threads.
        device: "cpu" or "cuda".
    """

    rows: list[Measurement]
    environment: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def configs(self) -> list[Config]:
        """The fixed workloads in the order in which they were measured."""
        return configs_of(self.rows)

    def of(self, config: Config) -> dict[str, Measurement]:
        """The measurements of a fixed workload by contender."""
        return {m.contender: m for m in self.rows if m.config == config}

    def ratio(self, config: Config, contender: str, base: str) -> float | None:
        """Median over rounds of one contender's time over another's; None where either was not measured."""
        rows = self.of(config)
        return rows[contender].ratio(rows[base]) if contender in rows and base in rows else None

    def table(self) -> str:
        """All rows as plain text, one block per workload."""
        facts = ", ".join(f"{key} {value}" for key, value in self.environment.items())
        return "\n\n".join([*([facts] if facts else []), *map(self._block, self.configs())])

    def _block(self, config: Config) -> str:
        rows = self.of(config)
        header = ["", "median ms", "fastest", "28 layers", "vs ours", "vs Gram", "peak extra", "equal indices"]
        lines = [
            [
                label(name),
                f"{m.median_ms:.1f}",
                f"{m.fastest_ms:.1f}",
                f"{m.median_ms * 28 / 1e3:.2f} s",
                times(self.ratio(config, name, ours_on(self.device))),
                times(self.ratio(config, name, "gram")),
                mebibytes(m.peak_extra_bytes),
                percent(m.equal_share),
            ]
            for name, m in rows.items()
        ]
        return config.name + "\n" + columns([header, *lines])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        rows = [m.to_dict() for m in self.rows]
        return {"environment": self.environment, "device": self.device, "rows": rows}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def times(value: float | None) -> str:
    """A ratio in a table; empty without one."""
    return "" if value is None else f"{value:.2f}×"


def mebibytes(size: int | None) -> str:
    """A size in a table; empty without one."""
    return "" if size is None else f"{size / MIB:.1f} MiB"


def percent(share: float | None) -> str:
    """A share in a table; empty without one."""
    return "" if share is None else f"{100 * share:.2f} %"


def configs_of(rows: Sequence[Measurement]) -> list[Config]:
    return list(dict.fromkeys(m.config for m in rows))


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns, the first one left-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)
