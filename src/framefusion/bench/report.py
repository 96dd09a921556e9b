"""The result of a bench run as a table, JSON and a plot."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from framefusion._version import __version__
from framefusion.bench.contenders import LABELS, Config, ours_on
from framefusion.bench.harness import Measurement

MIB = 1 << 20


def environment(threads: int, device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "framefusion": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _cpu_name(),
        "threads": threads,
        "dtype": "float32",
    }


def _cpu_name() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU, {capability}"


@dataclass(frozen=True)
class BenchReport:
    """Measurements of one run.

    Attributes:
        rows: the fixed configurations, one row per workload and contender.
        sweep: the growing number of frames, the same kind of rows.
        environment: versions, device and threads.
        device: "cpu" or "cuda".
    """

    rows: list[Measurement]
    sweep: list[Measurement] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def table(self) -> str:
        """All rows as plain text, one block per workload."""
        facts = ", ".join(f"{key} {value}" for key, value in self.environment.items())
        blocks = [facts] if facts else []
        blocks += [self._block(config) for config in _configs(self.rows)]
        if self.sweep:
            blocks.append("Frames of 196 tokens, 98 kept: median ms (peak extra MiB)\n" + self._sweep_table())
        return "\n\n".join(blocks)

    def _block(self, config: Config) -> str:
        rows = [m for m in self.rows if m.config == config]
        ours = _median(rows, ours_on(self.device))
        gram = _median(rows, "gram")
        header = ["", "median ms", "28 layers", "vs ours", "vs Gram", "peak extra", "equal indices"]
        lines = [
            [
                LABELS[m.contender],
                f"{m.median_ms:.1f}",
                f"{m.median_ms * 28 / 1e3:.2f} s",
                _ratio(m.median_ms, ours),
                _ratio(m.median_ms, gram),
                _mib(m.peak_extra_bytes),
                "" if m.equal_share is None else f"{100 * m.equal_share:.2f} %",
            ]
            for m in rows
        ]
        return config.name + "\n" + _columns([header, *lines])

    def _sweep_table(self) -> str:
        names = list(dict.fromkeys(m.contender for m in self.sweep))
        lines = [["frames", *(LABELS[name] for name in names)]]
        for config in _configs(self.sweep):
            cells = {m.contender: m for m in self.sweep if m.config == config}
            line = [str(config.segments)]
            for name in names:
                m = cells.get(name)
                line.append("–" if m is None else f"{m.median_ms:.1f} ({_mib(m.peak_extra_bytes)})")
            lines.append(line)
        return _columns(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        return {
            "environment": self.environment,
            "rows": [_row(m) for m in self.rows],
            "sweep": [_row(m) for m in self.sweep],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def plot(self, path: str | Path) -> None:
        """Draw time and peak extra memory over the number of frames; needs the extra ``plot``."""
        if not self.sweep:
            raise ValueError("there is no sweep to plot; run the bench with sweep=True")
        plt = require_matplotlib()
        figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
        for name in dict.fromkeys(m.contender for m in self.sweep):
            points = [m for m in self.sweep if m.contender == name]
            frames = [m.config.segments for m in points]
            time_axis.plot(frames, [m.median_ms for m in points], marker="o", markersize=4, label=LABELS[name])
            known = [m for m in points if m.peak_extra_bytes]
            memory_axis.plot(
                [m.config.segments for m in known],
                [(m.peak_extra_bytes or 0) / MIB for m in known],
                marker="o",
                markersize=4,
            )
        ticks = [c.segments for c in _configs(self.sweep)]
        for axis, title in ((time_axis, "median time, ms"), (memory_axis, "peak extra memory, MiB")):
            axis.set(title=title, xlabel="frames of 196 tokens", xscale="log", yscale="log")
            axis.set_xticks(ticks, [str(t) for t in ticks])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        time_axis.legend()
        figure.savefig(path, dpi=130)
        plt.close(figure)


def require_matplotlib() -> Any:
    """matplotlib.pyplot with a backend that needs no display, or an error that names the extra."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'framefusion[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _configs(rows: Sequence[Measurement]) -> list[Config]:
    return list(dict.fromkeys(m.config for m in rows))


def _median(rows: Sequence[Measurement], contender: str) -> float | None:
    return next((m.median_ms for m in rows if m.contender == contender), None)


def _ratio(value: float, base: float | None) -> str:
    return "" if not base else f"{value / base:.2f}×"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / MIB:.1f} MiB"


def _row(m: Measurement) -> dict[str, Any]:
    plain = asdict(m)
    return {**plain.pop("config"), **plain}


def _columns(lines: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns, the first one left-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)
