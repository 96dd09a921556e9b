"""A summary as a page of Markdown. Reads ``summary.json`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from framefusion.evaluation import plots
from framefusion.evaluation.table import (
    KINDS,
    LEGEND,
    STAGES,
    UNREACHED,
    Entry,
    accuracy,
    budgets,
    by_method,
    fixed,
    grid,
    headline,
    interval,
    markdown,
    percent,
    schedules,
)

SPLIT_BUDGET = 0.1
"""The budget whose split by kind and tag is shown in numbers, or the nearest one."""

TIMES = "times are medians, in turns with all tokens, the video encoded already"


def page(
    summary: Mapping[str, Any],
    made_by: str,
    title: str = "Leaderboard",
    images: str | None = None,
    prefix: str = "",
    linked: bool = False,
) -> str:
    """The leaderboard.

    Args:
        summary: content of ``summary.json``.
        made_by: the command that writes this page.
        title: of the page.
        images: where the pictures of :func:`framefusion.evaluation.plots.draw` are, as the page links them; None
            leaves them out.
        prefix: of the pictures' names.
        linked: whether the page lies in docs/results, beside the guides.
    """
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    commands = "\n".join(summary["commands"])
    beside = (
        "how to read it: [evaluation.md](../guides/evaluation.md), "
        "the methods: [methods.md](../how-it-works/methods.md)"
    )
    blocks = [
        f"# {title}",
        f"Written by `{made_by}`" + (f"; {beside}." if linked else "."),
        f"```\n{commands}\n```",
        f"Data: {summary['data']}. Model: {summary['model']}. {versions}. Intervals: {summary['resamples']} resamples "
        f"of the videos, seed {summary['seed']}, {100 * summary['level']:g} %.",
    ]
    # the number of frames with the most methods is the one that everything was run at
    for part in sorted(summary["frames"], key=lambda part: -len(part["methods"])):
        blocks += _section(part, images, prefix)
    return "\n\n".join(blocks) + "\n"


def _section(part: Mapping[str, Any], images: str | None, prefix: str) -> list[str]:
    blocks = [f"## {part['frames']} frames", headline(part)]
    if images is not None:
        whole, split = plots.names(part, prefix)
        blocks += [f"![Accuracy over budget, a line for each method]({images}/{whole})"]
        blocks += [f"![The same for each kind of question]({images}/{split})"] if len(part["kinds"]) > 1 else []
    used = schedules(part)
    if not used:
        return blocks

    def tables(title: str, text: str, cell: Callable[[Entry], str]) -> list[str]:
        made = []
        for schedule in used:
            made += [f"### {title}" + (f", {STAGES[schedule]}" if len(used) > 1 else ""), text]
            shown = [kind for kind in KINDS if by_method(part, kind, schedule)]
            made += [f"{KINDS[kind]}:\n\n{grid(part, kind, cell, schedule)}" for kind in shown]
        return made

    blocks += tables("Accuracy", f"{LEGEND[0].upper()}{LEGEND[1:]}.", accuracy)
    blocks += tables("Against all tokens", "Share of their accuracy in %, with its paired interval.", _ratio)
    if any(entry.get("vs_rival") for entry in part["methods"]):
        told = "Difference in points, with its paired interval."
        blocks += tables("Against the best other published rule", told, _rival)
    budget = min(budgets(part), key=lambda budget: abs(budget - SPLIT_BUDGET))
    for name, title in (("by_kind", "kind of question"), ("by_tag", "tag")):
        groups = part["kinds"] if name == "by_kind" else part["tags"]
        if len(groups) > 1:
            blocks += [
                f"### By {title}, at {100 * budget:g} %",
                "Accuracy in %, of the methods that reach the budget.",
                _split(part, budget, name, groups),
            ]
    blocks += [
        f"### Cost, at {100 * budget:g} %",
        "Visual tokens per layer and bytes of keys and values are means over the questions, relative to all tokens"
        + (f"; {TIMES}." if _timed(part, budget) else "."),
        _cost(part, budget),
    ]
    return blocks


def _ratio(entry: Entry) -> str:
    ratio = entry["vs_full"]["ratio"]
    if ratio is None:
        return UNREACHED
    return interval(ratio).replace("+", "")


def _rival(entry: Entry) -> str:
    rival = entry["vs_rival"]
    return "" if rival is None else f"{interval(rival['difference'])} ({rival['method']})"


def _at(part: Mapping[str, Any], budget: float) -> list[Entry]:
    found = [by_method(part, kind, schedule).values() for schedule in schedules(part) for kind in KINDS]
    cells = [cells[budget] for group in found for cells in group if budget in cells]
    return [*fixed(part), *(entry for entry in cells if entry["reached"])]


def _split(part: Mapping[str, Any], budget: float, name: str, groups: Mapping[str, int]) -> str:
    rows = [
        [entry["title"], *(percent(entry[name][group]["accuracy"]["value"]) for group in groups)]
        for entry in _at(part, budget)
    ]
    return markdown(["", *(f"{group} ({count})" for group, count in groups.items())], rows)


def _timed(part: Mapping[str, Any], budget: float) -> bool:
    return any("first_token_ratio" in entry for entry in _at(part, budget))


def _cost(part: Mapping[str, Any], budget: float) -> str:
    head, rows = ["", "tokens", "KV cache"], []
    if _timed(part, budget):
        head += ["selection", "first token", "with all tokens = 1"]
    for entry in _at(part, budget):
        row = [entry["title"], f"{percent(entry['share'])} %", f"{percent(entry['kv_ratio'])} %"]
        if "first_token_ratio" in entry:
            row.append(f"{entry['selection_milliseconds']:.1f} ms")
            row.append(f"{1000 * entry['first_token_seconds']:.0f} ms")
            row.append(f"{entry['first_token_ratio']:.2f}")
        rows.append(row + [""] * (len(head) - len(row)))
    return markdown(head, rows)
