"""The result of a bench run as a table, JSON and plots."""

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
from framefusion.bench.scaling import SWEEPS, Fit, fit_exponent
from framefusion.bench.workloads import Config
from framefusion.errors import ArgumentError, MissingDependencyError

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
class BenchReport:
    """Measurements of one run.

    Attributes:
        rows: the fixed configurations, one row per workload and contender.
        sweeps: the same kind of rows for each sweep, by its name in ``SWEEPS``.
        environment: versions, device and threads.
        device: "cpu" or "cuda".
        absent: for every contender that could not run, why.
    """

    rows: list[Measurement]
    sweeps: dict[str, list[Measurement]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    absent: dict[str, str] = field(default_factory=dict)

    def configs(self) -> list[Config]:
        """The fixed workloads in the order in which they were measured."""
        return _configs(self.rows)

    def of(self, config: Config) -> dict[str, Measurement]:
        """The measurements of a fixed workload by contender."""
        return {m.contender: m for m in self.rows if m.config == config}

    def ratio(self, config: Config, contender: str, base: str) -> float | None:
        """Median over rounds of one contender's time over another's; None where either was not measured."""
        rows = self.of(config)
        return rows[contender].ratio(rows[base]) if contender in rows and base in rows else None

    def fits(self, sweep: str) -> dict[str, Fit | None]:
        """The exponent of each contender of a sweep, from the fastest rounds; None with too few points."""
        fits = {}
        for name in dict.fromkeys(m.contender for m in self.sweeps[sweep]):
            points = [m for m in self.sweeps[sweep] if m.contender == name]
            sizes = [SWEEPS[sweep].size(m.config) for m in points]
            fits[name] = fit_exponent(sizes, [m.fastest_ms for m in points])
        return fits

    def table(self) -> str:
        """All rows as plain text, one block per workload."""
        facts = ", ".join(f"{key} {value}" for key, value in self.environment.items())
        blocks = [facts] if facts else []
        blocks += [self._block(config) for config in self.configs()]
        for name, rows in self.sweeps.items():
            blocks.append(f"{axis_label(name, self)}: median ms (peak extra MiB)\n" + self._sweep_table(name, rows))
        if self.absent:
            blocks.append("\n".join(f"{label(name)}: not installed, {why}" for name, why in self.absent.items()))
        return "\n\n".join(blocks)

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
        return config.name + "\n" + _columns([header, *lines])

    def _sweep_table(self, sweep: str, rows: Sequence[Measurement]) -> str:
        names = list(dict.fromkeys(m.contender for m in rows))
        lines = [[SWEEPS[sweep].attribute, *(label(name) for name in names)]]
        for config in _configs(rows):
            cells = {m.contender: m for m in rows if m.config == config}
            line = [str(SWEEPS[sweep].size(config))]
            for name in names:
                m = cells.get(name)
                line.append("–" if m is None else f"{m.median_ms:.1f} ({mebibytes(m.peak_extra_bytes) or '–'})")
            lines.append(line)
        fits = self.fits(sweep)
        lines.append(["exponent", *("–" if (fit := fits[name]) is None else f"{fit.exponent:.2f}" for name in names)])
        return _columns(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        return {
            "environment": self.environment,
            "device": self.device,
            "absent": self.absent,
            "rows": [m.to_dict() for m in self.rows],
            "sweeps": {name: [m.to_dict() for m in rows] for name, rows in self.sweeps.items()},
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> BenchReport:
        """The inverse of :meth:`to_dict`."""
        return cls(
            [Measurement.from_dict(row) for row in plain["rows"]],
            {name: [Measurement.from_dict(row) for row in rows] for name, rows in plain["sweeps"].items()},
            plain["environment"],
            plain["device"],
            plain["absent"],
        )

    def plot(self, path: str | Path) -> None:
        """Draw time and peak extra memory over the number of frames; needs the extra ``plot``."""
        rows = self.sweeps.get("frames")
        if not rows:
            raise ArgumentError("there is no sweep of frames to plot; run the bench with sweep=True")
        plt = require_matplotlib()
        figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        _draw(time_axis, "frames", rows, lambda m: m.median_ms)
        _draw(memory_axis, "frames", rows, lambda m: (m.peak_extra_bytes or 0) / MIB)
        time_axis.set(title="median time, ms", xlabel=axis_label("frames", self))
        memory_axis.set(title="peak extra memory, MiB", xlabel=axis_label("frames", self))
        time_axis.legend(fontsize=8)
        figure.savefig(path, dpi=130)
        plt.close(figure)

    def plot_scaling(self, path: str | Path) -> None:
        """Draw the median time of every sweep, a panel each; needs the extra ``plot``."""
        if not self.sweeps:
            raise ArgumentError("there is no sweep to plot")
        plt = require_matplotlib()
        height = -(-len(self.sweeps) // 2)
        figure, axes = plt.subplots(height, 2, figsize=(12, 4 * height), layout="constrained", squeeze=False)
        for axis, (name, rows) in zip(axes.flat, self.sweeps.items(), strict=False):
            _draw(axis, name, rows, lambda m: m.median_ms)
            axis.set(ylabel="median time, ms", xlabel=axis_label(name, self))
        for axis in axes.flat[len(self.sweeps) :]:
            axis.set_axis_off()
        handles: dict[str, Any] = {}
        for axis in axes.flat:
            handles |= {text: handle for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _draw(axis: Any, sweep: str, rows: Sequence[Measurement], value: Any) -> None:
    """One line per contender on logarithmic axes; values of 0 (not measured) are left out."""
    names = list(dict.fromkeys(m.contender for m in rows))
    for name in names:
        colour, marker = _STYLES.get(name, (None, "."))
        points = [m for m in rows if m.contender == name and value(m) > 0]
        sizes = [SWEEPS[sweep].size(m.config) for m in points]
        bold = 2.4 if name in ("numba", "torch") else 1.2
        axis.plot(
            sizes, [value(m) for m in points], color=colour, marker=marker, ms=4, lw=bold, label=label(name), alpha=0.9
        )
    ticks = [SWEEPS[sweep].size(config) for config in _configs(rows)]
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.grid(alpha=0.3)


_STYLES = {
    "original": ("#7f7f7f", "s"),
    "loop": ("#8c564b", "D"),
    "numpy": ("#bcbd22", "^"),
    "openvino": ("#9467bd", "v"),
    "torch": ("#ff7f0e", "o"),
    "numba": ("#d62728", "o"),
    "gram": ("#1f77b4", "x"),
}
"""Colour and marker by contender."""


def require_matplotlib() -> Any:
    """matplotlib.pyplot with a backend that needs no display, or an error that names the extra."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'framefusion[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def axis_label(sweep: str, report: BenchReport) -> str:
    """What grows in a sweep and what stays, in words."""
    widths = {m.config.dim for m in report.sweeps[sweep]}
    return SWEEPS[sweep].axis + (f", D {widths.pop()}" if len(widths) == 1 else "")


def times(value: float | None) -> str:
    """A ratio in a table; empty without one."""
    return "" if value is None else f"{value:.2f}×"


def mebibytes(size: int | None) -> str:
    """A size in a table; empty without one."""
    return "" if size is None else f"{size / MIB:.1f} MiB"


def percent(share: float | None) -> str:
    """A share in a table; empty without one."""
    return "" if share is None else f"{100 * share:.2f} %"


def _configs(rows: Sequence[Measurement]) -> list[Config]:
    return list(dict.fromkeys(m.config for m in rows))


def _columns(lines: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns, the first one left-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)
