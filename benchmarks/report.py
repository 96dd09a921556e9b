"""The package's report with sweeps and peers: plain text, JSON and pictures of all that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scaling import SWEEPS, Fit, fit_exponent
from framefusion.bench.contenders import label
from framefusion.bench.harness import Measurement
from framefusion.bench.report import MIB, Report, columns, configs_of, mebibytes
from framefusion.errors import ArgumentError
from framefusion.evaluation.plots import require_matplotlib


@dataclass(frozen=True)
class BenchReport(Report):
    """Measurements of one run.

    Attributes:
        sweeps: the same kind of rows for each sweep, by its name in ``SWEEPS``.
        absent: for every contender that could not run, why.
    """

    sweeps: dict[str, list[Measurement]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def fits(self, sweep: str) -> dict[str, Fit | None]:
        """The exponent of each contender of a sweep, from the fastest rounds; None with too few points."""
        fits = {}
        for name in dict.fromkeys(m.contender for m in self.sweeps[sweep]):
            points = [m for m in self.sweeps[sweep] if m.contender == name]
            sizes = [SWEEPS[sweep].size(m.config) for m in points]
            fits[name] = fit_exponent(sizes, [m.fastest_ms for m in points])
        return fits

    def table(self) -> str:
        """All rows as plain text, one block per workload and sweep."""
        blocks = [super().table()]
        for name, rows in self.sweeps.items():
            blocks.append(f"{axis_label(name, self)}: median ms (peak extra MiB)\n" + self._sweep_table(name, rows))
        if self.absent:
            blocks.append("\n".join(f"{label(name)}: not installed, {why}" for name, why in self.absent.items()))
        return "\n\n".join(blocks)

    def _sweep_table(self, sweep: str, rows: Sequence[Measurement]) -> str:
        names = list(dict.fromkeys(m.contender for m in rows))
        lines = [[SWEEPS[sweep].attribute, *(label(name) for name in names)]]
        for config in configs_of(rows):
            cells = {m.contender: m for m in rows if m.config == config}
            line = [str(SWEEPS[sweep].size(config))]
            for name in names:
                m = cells.get(name)
                line.append("–" if m is None else f"{m.median_ms:.1f} ({mebibytes(m.peak_extra_bytes) or '–'})")
            lines.append(line)
        fits = self.fits(sweep)
        lines.append(["exponent", *("–" if (fit := fits[name]) is None else f"{fit.exponent:.2f}" for name in names)])
        return columns(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the JSON file."""
        sweeps = {name: [m.to_dict() for m in rows] for name, rows in self.sweeps.items()}
        return {**super().to_dict(), "absent": self.absent, "sweeps": sweeps}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> BenchReport:
        """The inverse of :meth:`to_dict`."""
        return cls(
            [Measurement.from_dict(row) for row in plain["rows"]],
            plain["environment"],
            plain["device"],
            {name: [Measurement.from_dict(row) for row in rows] for name, rows in plain["sweeps"].items()},
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
    ticks = [SWEEPS[sweep].size(config) for config in configs_of(rows)]
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


def axis_label(sweep: str, report: BenchReport) -> str:
    """What grows in a sweep and what stays, in words."""
    widths = {m.config.dim for m in report.sweeps[sweep]}
    return SWEEPS[sweep].axis + (f", D {widths.pop()}" if len(widths) == 1 else "")
