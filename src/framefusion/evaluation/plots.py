"""Pictures of a summary; need the extra ``plot``. Read ``summary.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framefusion.errors import MissingDependencyError
from framefusion.evaluation.table import Entry, by_method, fixed, schedules

STYLES: dict[str, dict[str, Any]] = {
    "control": {"linestyle": ":", "linewidth": 1.2, "markersize": 5, "zorder": 2},
    "published": {"linestyle": "-", "linewidth": 1.2, "markersize": 4, "zorder": 3},
    "ours": {"linestyle": "-", "linewidth": 2.4, "markersize": 6, "zorder": 4},
}
"""How the methods of a kind are drawn; ablations are in the tables alone."""
COLOURS = {
    "control": ("#333333", "#777777", "#aaaaaa"),
    "published": ("#0077b6", "#2a9d8f", "#6a994e", "#4361ee", "#8d6a9f", "#00b4d8", "#577590", "#9c6644", "#b59f3b"),
    "ours": ("#c1121f", "#f48c06", "#b5179e", "#7f4f24"),
}
MARKERS = "os^Dv"
COLUMNS = 4
"""Panels beside each other."""
BUDGET_LABEL = "visual tokens, mean over layers, % of all"


def require_matplotlib() -> Any:
    """matplotlib.pyplot with a backend that needs no display, or an error that names the extra."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'framefusion[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def names(part: Mapping[str, Any], prefix: str = "") -> tuple[str, str]:
    """File names of the two pictures of one number of frames."""
    return f"{prefix}accuracy-{part['frames']}.png", f"{prefix}kinds-{part['frames']}.png"


def draw(part: Mapping[str, Any], directory: Path, prefix: str = "") -> None:
    """Draw accuracy over budget, of all questions and of each kind.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plt = require_matplotlib()
    whole, split = names(part, prefix)
    figure, axis = plt.subplots(figsize=(9, 5.2), layout="constrained")
    _lines(axis, part)
    axis.set(xlabel=BUDGET_LABEL, ylabel="accuracy, %")
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(directory / whole, dpi=130)
    plt.close(figure)

    kinds = list(part["kinds"])
    columns = min(COLUMNS, len(kinds))
    rows = -(-len(kinds) // columns)
    size = (3.1 * columns + 2.6, 2.7 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.set_visible(place < len(kinds))
    for axis, kind in zip(axes.flat, kinds, strict=False):
        _lines(axis, part, kind)
        axis.set_title(f"{kind} ({part['kinds'][kind]})", fontsize="medium")
    figure.supxlabel(BUDGET_LABEL, fontsize="medium")
    figure.supylabel("accuracy, %", fontsize="medium")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(directory / split, dpi=130)
    plt.close(figure)


def compared(part: Mapping[str, Any]) -> str:
    """The schedule that is drawn: the first of the tables that has published rules to compare with.

    Where rules were put into the same stages, those lines are the comparison; their own are in the tables.
    """
    used = schedules(part)
    return next((schedule for schedule in used if by_method(part, "published", schedule)), used[0] if used else "")


def _lines(axis: Any, part: Mapping[str, Any], question_kind: str | None = None) -> None:
    """One line for each method; the intervals of ours where all questions are shown."""

    def of(entry: Entry) -> Any:
        return entry["accuracy"] if question_kind is None else entry["by_kind"][question_kind]["accuracy"]

    schedule = compared(part)
    for kind, style in STYLES.items():
        for number, (title, cells) in enumerate(by_method(part, kind, schedule).items()):
            points = sorted((budget, of(entry)) for budget, entry in cells.items() if entry["reached"])
            if not points:
                continue
            shares = [100 * budget for budget, _ in points]
            values = [100 * estimate["value"] for _, estimate in points]
            colour, marker = COLOURS[kind][number % len(COLOURS[kind])], MARKERS[number % len(MARKERS)]
            axis.plot(shares, values, label=title, color=colour, marker=marker, **style)
            if question_kind is None and kind == "ours" and all(estimate["low"] is not None for _, estimate in points):
                low, high = ([100 * estimate[end] for _, estimate in points] for end in ("low", "high"))
                axis.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
    for entry, dashes in zip(fixed(part), ("--", "-."), strict=False):
        value = 100 * of(entry)["value"]
        axis.axhline(value, color="black", linestyle=dashes, linewidth=1, label=entry["title"], zorder=1)
    ticks = sorted({100 * entry["budget"] for entry in part["methods"] if entry["budget"] is not None})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
