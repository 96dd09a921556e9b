"""What was measured on real footage, summed up and as tables. Pure numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from framefusion.evaluation.cells import Unreachable
from framefusion.evaluation.statistics import Bootstrap
from framefusion.evaluation.table import UNREACHED, markdown
from framefusion.reduction.segmentation import SEGMENTATIONS

Row = Mapping[str, Any]
RANDOM = "random"
"""The control that every rule is compared with."""
COMPARED = [name for name, rule in SEGMENTATIONS.items() if hasattr(rule, "threshold")]
"""The segmentations that look at the tokens."""
KINDS = {"ours": "Ours", "ablation": "Ours, one thing changed", "published": "Published rules", "control": "Controls"}
"""Kinds of methods in the order of the tables."""
LEGEND = (
    "People: share in % who keep at least one token that shows them, 95 % intervals over moments; "
    "↑ more than at random, ↓ fewer (paired interval clear of 0). Of their tokens: share in % that is kept. "
    "A token that is averaged into a kept one is not kept."
)


def summarise(
    rows: Sequence[Row], shots: Sequence[Row], missing: Sequence[Unreachable], *, seed: int = 0
) -> dict[str, Any]:
    """Shares of people by method and budget, and how many cuts were found.

    Intervals resample *moments*: the frames with the same number in all videos, taken within seconds of each other, go
    together with everybody in them. A random method is averaged over its seeds before, per person.

    Args:
        rows: lines of ``rows.jsonl``.
        shots: lines of ``shots.jsonl``.
        missing: methods that cannot run.
        seed: of the bootstrap.

    Returns:
        ``people``: how many, ``moments``: how many with anybody; ``methods``: of each at each budget the shares of
        people who keep a token and who leave a trace, with intervals, the share of their tokens that stays, the share
        of all tokens that stays, the median time of the rule, and the paired difference to random tokens; ``left_out``:
        why a method did not run; ``shots``: by segmentation and film.
    """
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["budget"]), []).append(row)
    tables = {key: _people(group) for key, group in groups.items()}
    moments = next(iter(tables.values()))["moment"]
    bootstrap = Bootstrap(moments.tolist(), seed=seed) if len(moments) else None
    methods = []
    for (name, budget), group in groups.items():
        table, random = tables[name, budget], tables.get((RANDOM, budget))
        entry = {key: group[0][key] for key in ("method", "title", "kind")} | {"budget": budget}
        entry["share"] = sum(row["kept"] for row in group) / sum(row["tokens"] for row in group)
        entry["milliseconds"] = float(np.median([row["milliseconds"] for row in group]))
        if bootstrap is not None:
            entry["kept"] = asdict(bootstrap.accuracy(table["kept"]))
            entry["traced"] = asdict(bootstrap.accuracy(table["traced"]))
            entry["person_tokens"] = float(table["tokens_kept"].sum() / table["tokens"].sum())
            entry["vs_random"] = None
            if random is not None and name != RANDOM:
                entry["vs_random"] = asdict(bootstrap.difference(table["kept"], random["kept"]))
        methods.append(entry)
    return {
        "people": len(moments),
        "moments": len(np.unique(moments)),
        "methods": methods,
        "left_out": [asdict(lost) for lost in missing],
        "shots": _shots(shots),
    }


def _people(group: Sequence[Row]) -> dict[str, np.ndarray]:
    """Of one method at one budget, by person: the moment, and means over seeds of what became of its tokens."""
    seeds: dict[int, list[Row]] = {}
    for row in group:
        seeds.setdefault(row["seed"], []).append(row)
    runs = []
    for rows in seeds.values():
        ordered = sorted(rows, key=lambda row: row["video"])
        people = [person for row in ordered for person in row["people"]]
        runs.append(np.array(people, dtype=np.float64).reshape(-1, 4))
    moment, tokens, kept, traced = np.stack(runs).transpose(2, 0, 1)
    return {
        "moment": moment[0],
        "tokens": tokens[0],
        "tokens_kept": kept.mean(axis=0),
        "kept": (kept > 0).mean(axis=0),
        "traced": (traced > 0).mean(axis=0),
    }


def _shots(shots: Sequence[Row]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each segmentation on each film; None where nothing was found, or there is no cut."""
    result = []
    for row in sorted(shots, key=lambda row: COMPARED.index(row["segmentation"])):
        found, true, matched = len(row["found"]), len(row["true"]), row["matched"]
        about = {key: row[key] for key in ("segmentation", "threshold", "film", "frames")}
        scores = {
            "precision": matched / found if found else None,
            "recall": matched / true if true else None,
            "f1": 2 * matched / (found + true) if found + true else None,
        }
        result.append({**about, "found": found, "true": true, "matched": matched, **scores})
    return result


def page(summary: Mapping[str, Any]) -> str:
    """``footage.md``: the summary for people."""
    asked = f"{summary['people']} people in {summary['videos']} videos of {summary['frames']} frames"
    lines = ["# Real footage without a model", "", "What this measures: evaluation.md, *Real footage*. Measured by", ""]
    lines += ["```", *summary["commands"], "```", ""]
    lines += [f"Tokens: {summary['model'].removeprefix('none, ')}. {asked}.", ""]
    lines += [people_table(summary), "", LEGEND, "", shots_table(summary), ""]
    reasons: dict[str, dict[str, list[float]]] = {}
    for lost in summary["left_out"]:
        reasons.setdefault(lost["reason"], {}).setdefault(lost["method"], []).append(lost["budget"])
    if reasons:
        lines += ["Left out:", ""]
        every = len(_budgets(summary))
        for reason, methods in reasons.items():
            names = [
                name if len(of) == every else f"{name} at {', '.join(f'{b:g}' for b in of)}"
                for name, of in methods.items()
            ]
            lines.append(f"- {', '.join(names)}: {reason}.")
        lines.append("")
    return "\n".join(lines)


def people_table(summary: Mapping[str, Any]) -> str:
    """Who keeps a token, in Markdown: a row for each method, two columns for each budget."""
    budgets = _budgets(summary)
    rows: list[list[str]] = []
    for kind, heading in KINDS.items():
        entries: dict[str, dict[float, Row]] = {}
        for entry in summary["methods"]:
            if entry["kind"] == kind and "kept" in entry:
                entries.setdefault(entry["title"], {})[entry["budget"]] = entry
        if entries:
            rows.append([f"**{heading}**", *[""] * (2 * len(budgets))])
        rows += [[title, *(text for b in budgets for text in _cells(of.get(b)))] for title, of in entries.items()]
    return markdown(["method", *(name for b in budgets for name in (f"{b:.0%}: people", "of their tokens"))], rows)


def _budgets(summary: Mapping[str, Any]) -> list[float]:
    return sorted({entry["budget"] for entry in summary["methods"]}, reverse=True)


def _cells(entry: Row | None) -> tuple[str, str]:
    if entry is None:
        return UNREACHED, UNREACHED
    estimate, difference = entry["kept"], entry["vs_random"]
    text = f"{100 * estimate['value']:.1f}"
    if estimate["low"] is not None:
        text += f" [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"
    if difference and difference["low"] is not None:
        text += " ↑" if difference["low"] > 0 else " ↓" if difference["high"] < 0 else ""
    return text, f"{100 * entry['person_tokens']:.1f}"


def shots_table(summary: Mapping[str, Any]) -> str:
    """Which cuts were found, in Markdown: a row for each segmentation and film."""
    rows = [
        [
            f"{row['segmentation']} ({row['threshold']:g})",
            row["film"],
            *(str(row[count]) for count in ("true", "found")),
            *(UNREACHED if row[score] is None else f"{row[score]:.2f}" for score in ("precision", "recall", "f1")),
        ]
        for row in summary["shots"]
    ]
    return markdown(["segmentation", "film", "cuts", "found", "precision", "recall", "F1"], rows, texts=2)
