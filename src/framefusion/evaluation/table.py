"""A summary as tables: for a terminal, and as Markdown. Reads ``summary.json`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from framefusion.evaluation.methods.placed import schedule_of

Entry = Mapping[str, Any]
"""One method at one budget, as :func:`framefusion.evaluation.summary.summarise` gives it."""

KINDS = {"ours": "Ours", "published": "Published rules", "control": "Controls", "ablation": "Ablations"}
"""Kinds of methods in the order of the tables."""
STAGES = {
    "stages": "every rule in the library's stages",
    "input": "every rule in one stage, before layer 0",
    "attention": "every rule in one stage, behind the first attention",
    "": "every rule in its authors' stages",
}
"""What the schedules of :data:`framefusion.evaluation.methods.placed.SCHEDULES` are, in the order of the tables."""
UNREACHED = "—"
LEGEND = (
    "accuracy in %; ↑ ahead of the best other published rule at this budget, ↓ behind it (paired 95 % interval clear "
    "of 0); — the budget cannot be reached; * the share of tokens was another one"
)


def budgets(part: Mapping[str, Any], schedule: str | None = None) -> list[float]:
    """The budgets of one number of frames, largest first; those of one schedule, or of all."""
    asked = [e for e in part["methods"] if schedule is None or schedule_of(e["method"]) == schedule]
    return sorted({entry["budget"] for entry in asked if entry["budget"] is not None}, reverse=True)


def schedules(part: Mapping[str, Any]) -> list[str]:
    """The schedules that methods were put into, in the order of the tables; empty stands for each one's own."""
    used = {schedule_of(entry["method"]) for entry in part["methods"] if entry["budget"] is not None}
    return [schedule for schedule in STAGES if schedule in used]


def by_method(part: Mapping[str, Any], kind: str, schedule: str = "") -> dict[str, dict[float, Entry]]:
    """The entries of the methods of a kind that know budgets, in one schedule, by title."""
    rows: dict[str, dict[float, Entry]] = {}
    for entry in part["methods"]:
        if entry["kind"] == kind and entry["budget"] is not None and schedule_of(entry["method"]) == schedule:
            rows.setdefault(entry["title"].removesuffix(f" @ {schedule}"), {})[entry["budget"]] = entry
    return rows


def fixed(part: Mapping[str, Any]) -> list[Entry]:
    """The entries without a budget: all tokens, text only."""
    return [entry for entry in part["methods"] if entry["budget"] is None and entry["reached"]]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def interval(estimate: Entry, scale: float = 100, digits: int = 1) -> str:
    """``-1.2 [-2.0, -0.4]``; without the brackets where one video tells nothing about others."""
    value = f"{scale * estimate['value']:+.{digits}f}"
    if estimate["low"] is None:
        return value
    return f"{value} [{scale * estimate['low']:+.{digits}f}, {scale * estimate['high']:+.{digits}f}]"


def accuracy(entry: Entry | None) -> str:
    """The accuracy with its marks, see :data:`LEGEND`."""
    if entry is None:
        return ""
    if not entry["reached"]:
        return UNREACHED
    return percent(entry["accuracy"]["value"]) + ("" if entry["on_budget"] else "*") + _ahead(entry)


def _ahead(entry: Entry) -> str:
    rival = entry["vs_rival"]
    if rival is None or rival["difference"]["low"] is None:
        return ""
    low, high = rival["difference"]["low"], rival["difference"]["high"]
    return " ↑" if low > 0 else " ↓" if high < 0 else ""


def headline(part: Mapping[str, Any]) -> str:
    """What was asked, and the accuracies that have no budget, in one line."""
    scored = "exact match" if part["labelled"] == part["questions"] else "agreement with the answer of all tokens"
    if 0 < part["labelled"] < part["questions"]:
        scored = f"exact match on {part['labelled']}, else {scored}"
    known = "; ".join(
        f"{entry['title']} {percent(entry['accuracy']['value'])} %{_spent(entry)}" for entry in fixed(part)
    )
    asked = f"{part['frames']} frames, {part['questions']} questions about {part['videos']} videos"
    return f"{asked}, {scored}. {known}.{_left_out(part)}"


def _spent(entry: Entry) -> str:
    """The share of the tokens, where a method without a budget takes fewer than all."""
    return "" if entry["share"] > 1 - 1e-9 else f" (of {percent(entry['share'])} % of the tokens)"


def _left_out(part: Mapping[str, Any]) -> str:
    """The kinds of questions that the model cannot answer."""
    # Summaries that are older than the rule have none.
    left = [f"{kind}, {percent(share)} % with all tokens" for kind, share in part.get("left_out", {}).items()]
    return f" Left out: {'; '.join(left)}." if left else ""


def terminal(part: Mapping[str, Any]) -> Table:
    """Methods and budgets at one number of frames."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    shown = budgets(part)
    for budget in shown:
        table.add_column(f"{100 * budget:g} %", justify="right", no_wrap=True)
    used = schedules(part)
    for schedule in used:
        if len(used) > 1:
            table.add_row(STAGES[schedule], style="italic")
        for kind in KINDS:
            rows = by_method(part, kind, schedule)
            for number, (title, cells) in enumerate(rows.items(), start=1):
                values = [accuracy(cells.get(budget)) for budget in shown]
                table.add_row(title, *values, style="bold" if kind == "ours" else "", end_section=number == len(rows))
    return table


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table: ``texts`` columns of text, then numbers to the right.

    ``rich.box.MARKDOWN`` has no mark for the side, and takes a ``|`` in a cell for the end of it.
    """
    marks = ["---"] * texts + ["---:"] * (len(head) - texts)
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def grid(part: Mapping[str, Any], kind: str, cell: Callable[[Entry], str], schedule: str = "") -> str:
    """A Markdown table of the methods of a kind over the budgets, in one schedule."""
    shown = budgets(part, schedule)
    rows = []
    for title, cells in by_method(part, kind, schedule).items():
        found = [cells.get(budget) for budget in shown]
        values = ["" if entry is None else cell(entry) if entry["reached"] else UNREACHED for entry in found]
        rows.append([title, *values])
    return markdown(["", *(f"{100 * budget:g} %" for budget in shown)], rows)
