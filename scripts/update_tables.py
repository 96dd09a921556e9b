"""Write the tables of the docs that come from the registry and measurements: ``python scripts/update_tables.py``.

The models come from ``framefusion.hf.families``, the differences from ``docs/data/matrix.json`` (``make test-all``),
the readers of videos from ``docs/data/decoding.json`` and ``decoding-size.json`` (``python -m benchmarks.decoding``,
``decoding_size``), times from ``docs/data/end-to-end.json`` and ``alternatives*.json`` (``python -m
benchmarks.end_to_end``, ``alternatives``), operations from ``llava-proportions.json`` (``python -m benchmarks.llava``),
the default beside the best rules from ``docs/data/leaderboard*.json`` (``make leaderboard``). A test fails while a file
differs from what this would write.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from framefusion.evaluation.methods.placed import schedule_of
from framefusion.evaluation.table import UNREACHED, interval, percent
from framefusion.hf.families import refused, table
from framefusion.showing.units import PARTS, factor, seconds_of

ROOT = Path(__file__).resolve().parent.parent
MATRIX = ROOT / "docs" / "data" / "matrix.json"
DECODING = ROOT / "docs" / "data" / "decoding.json"
SCALING = ROOT / "docs" / "data" / "decoding-size.json"
TIMES = ROOT / "docs" / "data" / "end-to-end.json"
FACTS = [ROOT / "docs" / "data" / f"facts-{name}.json" for name in ("qwen", "qwen-others")]
ALTERNATIVES = "alternatives", "alternatives-llava", "alternatives-llava-still", "alternatives-still"
"""Files in ``docs/data``, and tables: models and the footage that they are asked about."""
PROPORTIONS = ROOT / "docs" / "data" / "llava-proportions.json"
FILES = {
    ROOT / "docs" / "guides" / "models.md": ("models", "matrix", "refused"),
    ROOT / "docs" / "guides" / "decoding.md": (
        "decoding",
        "scaling-times",
        "scaling-memory",
        "scaling-pixels",
        "scaling-answers",
    ),
    ROOT / "docs" / "results" / "end-to-end.md": ("end-to-end-parts", "llava-proportions", *ALTERNATIVES),
    ROOT / "README.md": ("end-to-end", "pretrained", "rules", "supported"),
    ROOT / "README.zh.md": ("end-to-end-zh", "pretrained-zh", "rules-zh", "supported-zh"),
    ROOT / "docs" / "how-it-works" / "stages.md": ("rivals",),
}

DEFAULT = "segment-dpp-two-stage"
BUDGETS = (0.2, 0.1, 0.05)
LLAVA, QWEN = "LLaVA-OneVision", "Qwen2.5-VL"
RIVALS = (
    (f"{LLAVA}, the library's two stages", "leaderboard", "stages", 16),
    (f"{LLAVA}, other questions, two stages", "leaderboard-fresh", "stages", 16),
    (f"{LLAVA}, 8 frames, two stages", "leaderboard-frames", "stages", 8),
    (f"{LLAVA}, 64 frames, two stages", "leaderboard-frames", "stages", 64),
    (f"{LLAVA}, one stage before layer 0", "leaderboard-schedules", "input", 16),
    (f"{LLAVA}, one stage behind the first attention", "leaderboard-attention", "attention", 16),
    (f"{LLAVA}, each in its own stages", "leaderboard", "", 16),
    (f"{QWEN}, the library's two stages", "leaderboard-qwen", "stages", 32),
    (f"{QWEN}, one stage before layer 0", "leaderboard-qwen-input", "input", 32),
    (f"{QWEN}, one stage behind the first attention", "leaderboard-qwen-inside", "attention", 32),
    (f"{QWEN}, each in its own stages", "leaderboard-qwen-inside", "", 32),
)
"""The boards, schedules and numbers of frames at which the default is held against the best published rule."""


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def models() -> str:
    """The registry, a row per family."""
    rows = [[row["name"], f"`{row['model_class']}`", row["placeholder"], row["verified"]] for row in table()]
    return _markdown(["family", "class", "visual tokens in the prompt", "checked"], rows)


def dispositions() -> str:
    """What is not supported, a row per reason."""
    by_reason: dict[str, list[str]] = {}
    for row in refused():
        by_reason.setdefault(row["reason"], []).append(f"`{row['model_class']}`")
    return _markdown(["class", "why not"], [[", ".join(classes), reason] for reason, classes in by_reason.items()])


def supported(separator: str) -> str:
    """The names of the families."""
    return separator.join(row["name"] for row in table())


def matrix() -> str:
    """The largest difference from the oracle per family and way."""
    record = json.loads(MATRIX.read_text(encoding="utf-8"))
    ways = list(dict.fromkeys(way for row in record.values() for way in row))
    rows = [
        [f"`{family}`", *(f"{own[way]:.0e}" if way in own else "–" for way in ways)] for family, own in record.items()
    ]
    return _markdown(["family", *ways], rows)


def decoding() -> str:
    """What each reader does with the files that not all of them read right."""
    record = json.loads(DECODING.read_text(encoding="utf-8"))
    readers = list(record["versions"])[:-1]
    files = record["files"]
    head = ["file", *(f"{name} {record['versions'][name]}".strip() for name in readers)]
    total = [
        "**right**",
        *(f"**{sum(row[name] == 'right' for row in files.values())} of {len(files)}**" for name in readers),
    ]
    rows = [
        [f"`{file}`", *(row[name] for name in readers)] for file, row in files.items() if set(row.values()) != {"right"}
    ]
    same = ", ".join(f"`{file}`" for file, row in files.items() if set(row.values()) == {"right"})
    return f"{_markdown(head, [total, *rows])}\n\nRead right by all of them: {same}."


def scaling_times() -> str:
    """Of each clip and processor, what the ways to its size take."""
    head = ["clip", "frames", "processor", "scaled to", "decoding", "processor", "decoding at the size", "processor"]
    head += ["factor", "FFmpeg, exact", "FFmpeg, as the reader's"]
    parts = ("decoding", "processor", "decoding, the processor's resizing", "processor, the same")
    rows = [
        [
            f"{row['clip']}, {row['size'][1]}×{row['size'][0]}",
            f"{row['frames']} of {row['of']}",
            row["processor"],
            f"{row['scaled to'][1]}×{row['scaled to'][0]}",
            *(seconds_of(row["seconds"][part]) for part in parts),
            f"**{factor(row['factor'])}**",
            factor(row["factor of the nearest"]),
            factor(row["factor of the reader's filter"]),
        ]
        for row in json.loads(SCALING.read_text(encoding="utf-8"))["times"]["rows"]
    ]
    return _markdown(head, rows)


def scaling_memory() -> str:
    """Of each size and processor, the largest memory of a process that reads and processes."""
    head = ["frames", "processor", "at their own size", "at the processor's", ""]
    rows = []
    for row in json.loads(SCALING.read_text(encoding="utf-8"))["memory"]["rows"]:
        own, fitted = row["MiB"]
        size = f"{row['frames']} of {row['size']}"
        rows.append([size, row["processor"], f"{own:,} MiB", f"{fitted:,} MiB", f"**{factor(own / fitted)}**"])
    return _markdown(head, rows)


def scaling_pixels() -> str:
    """Of each processor and filter, how far pixels are from those of the processor, over all clips."""
    rows = json.loads(SCALING.read_text(encoding="utf-8"))["pixels"]["rows"]
    filters = list(dict.fromkeys(row["filter"] for row in rows))
    lines = []
    for processor in dict.fromkeys(row["processor"] for row in rows):
        cells = []
        for name in filters:
            own = [row for row in rows if (row["processor"], row["filter"]) == (processor, name)]
            mean = sum(row["mean"] for row in own) / len(own)
            cells.append(f"{mean:.2f}, at most {max(row['max'] for row in own)}")
        lines.append([processor, *cells])
    return _markdown(["grey levels apart", *filters], lines)


def scaling_answers() -> str:
    """Of each bundled model, answers that are right and that changed, by the way of scaling."""
    rows = json.loads(SCALING.read_text(encoding="utf-8"))["answers"]["rows"]
    filters = list(dict.fromkeys(row["filter"] for row in rows))
    lines = []
    for model, plan in dict.fromkeys((row["model"], row["plan"]) for row in rows):
        usual, *others = [row for row in rows if (row["model"], row["plan"]) == (model, plan)]
        cells = [f"{row['right']}, {row['changed']} others" for row in others]
        lines.append([f"`{model}`, {plan}", f"{usual['right']} of {usual['questions']}", *cells])
    return _markdown(["answers that are right", "the processor", *filters[1:]], lines)


def end_to_end(head: list[str], plans: dict[str, str]) -> str:
    """Times from the file to the first token of the longest video, in short; ``plans`` are their names in another
    language.
    """
    run = json.loads(TIMES.read_text(encoding="utf-8"))["runs"][-1]
    rows = []
    for plan in run["plans"]:
        seconds, name = plan["seconds"], plan["plan"]
        rows.append(
            [
                plans.get(name, name),
                f"{seconds['tower'] + seconds['projector']:.1f} s",
                *(f"{seconds[part]:.1f} s" for part in ("prefill", "first_token")),
                f"**{factor(plan['end_to_end_factor'])}**",
                factor(plan["decoder_factor"]),
            ]
        )
    return _markdown([head[0].format(**run), *head[1:]], rows)


def parts() -> str:
    """The same in all parts, with what the operations would make of it."""
    record = json.loads(TIMES.read_text(encoding="utf-8"))
    names = ("decode", "processor", "tower", "projector", "prefill", "other", "first_token", "per_token")
    head = ["frames", "plan", "decoding", "processor", "tower", "projector", "decoder", "the rest", "first token"]
    head += ["further token", "largest part", "end to end", "by FLOPs", "decoder alone", "by FLOPs"]
    rows = []
    for run in record["runs"]:
        for plan in run["plans"]:
            own, whole = plan["seconds"], plan["flops"]
            full = whole["decoder with all tokens"] or 1.0
            decoder = whole["decoder"] or full
            around = whole["encoder"] + whole["head"]
            ideal = 1.0 if whole["decoder"] is None else (around + full) / (around + decoder)
            largest = max(names[:6], key=own.__getitem__)
            rows.append(
                [
                    str(run["frames"]),
                    plan["plan"],
                    *(seconds_of(own[name]) for name in names),
                    f"{PARTS[largest]} {own[largest] / own['first_token']:.0%}",
                    f"**{factor(plan['end_to_end_factor'])}**",
                    factor(ideal),
                    factor(plan["decoder_factor"]),
                    factor(full / decoder),
                ]
            )
    return _markdown(head, rows)


def alternatives(name: str) -> str:
    """Ways to a sooner first token at equal accuracy: all times with the first mid-size model, the sum with others."""
    record = json.loads((ROOT / "docs" / "data" / f"{name}.json").read_text(encoding="utf-8"))
    first, *others = record["times"]
    head = ["way", "accuracy", "tower's work", "tower", "decoder", "first token", "end to end", "decoder alone"]
    head += [f"{what} as in {other['proportions']}" for other in others for what in ("first token", "end to end")]
    rows = []
    for row, *same in zip(first["rows"], *(other["rows"] for other in others), strict=True):
        share = row.get("tower_share", UNREACHED)
        cells = [row["plan"] + ("" if row["keeps"] else " †"), f"{100 * row['accuracy']:.1f} %"]
        cells.append("all" if share is None else share if share == UNREACHED else f"{100 * share:.0f} %")
        cells += [f"{row['seconds'][part]:.2f} s" for part in ("tower", "prefill", "first_token")]
        cells += [f"**{factor(row['end_to_end_factor'])}**", factor(row["decoder_factor"])]
        for other in same:
            cells += [f"{other['seconds']['first_token']:.2f} s", f"**{factor(other['end_to_end_factor'])}**"]
        rows.append(cells)
    return _markdown(head, rows)


def proportions() -> str:
    """Operations of LLaVA-OneVisions up to the first token, of tower and decoder."""
    record = json.loads(PROPORTIONS.read_text(encoding="utf-8"))
    rows = [
        [
            f"{row['proportions']}, {row['model']}",
            f"{row['visual_tokens']:,}",
            *(f"{row[part] / 1e9:,.0f} GFLOP" for part in ("tower", "decoder")),
            factor(row["decoder_over_tower"]),
        ]
        for row in record["rows"]
    ]
    return _markdown([f"{record['frames']} frames", "visual tokens", "tower", "decoder", "decoder over tower"], rows)


SHORT = ["{frames} frames", "vision tower", "decoder", "first token", "**end to end**", "decoder alone"]
SHORT_ZH = ["{frames} 帧", "视觉塔", "解码器", "首个词", "**端到端**", "仅解码器"]
PLANS_ZH = {"all tokens": "全部 token", "the default, cost=0.3": "默认，cost=0.3"}


KEPT = ["kept of the accuracy of all tokens, in %", "at 30 %", "at 20 %"]
KEPT_ZH = ["保留全部 token 准确率的百分比", "30 % 时", "20 % 时"]
METHODS_OF_FACTS = {
    DEFAULT: "**the default**",
    "one-frame-a-scene": "one frame a scene (a control that knows the scenes)",
    "fewer-frames": "fewer frames",
    "divprune@stages": "DivPrune in the same stages",
    "uniform": "evenly spaced tokens",
}
ACCURACY = ["accuracy in %", *(f"{model}, {100 * budget:g} %" for model in (LLAVA, QWEN) for budget in BUDGETS)]
ACCURACY_ZH = ["准确率（%）", *ACCURACY[1:]]
RULES = {
    DEFAULT: "**the default**",
    "sttm": "STTM",
    "floc": "FLoC",
    "divprune": "DivPrune",
    "cdpruner-input": "CDPruner (similarity)",
    "flashvid": "FlashVID",
    "holitom": "HoliTom",
    "evs": "EVS",
    "uniform": "evenly spaced tokens",
}
WORDS_ZH = {
    DEFAULT: "**默认**",
    "one-frame-a-scene": "每个场景一帧（知道场景的对照）",
    "fewer-frames": "更少的帧",
    "divprune@stages": "同样阶段中的 DivPrune",
    "cdpruner-input": "CDPruner（相似度）",
    "uniform": "等间隔 token",
}


def pretrained(head: list[str], names: dict[str, str]) -> str:
    """What rules keep of the accuracy of a pretrained decoder; ``names`` are those of the methods, in order."""
    found: dict[tuple[str, float | None], dict[str, Any]] = {}
    for path in FACTS:
        (part,) = json.loads(path.read_text(encoding="utf-8"))["frames"]
        # The default of the first file is today's.
        found = {(entry["method"], entry["budget"]): entry for entry in part["methods"]} | found
    full = found["full", None]["accuracy"]["value"]
    rows = []
    for method, name in names.items():
        # What takes no budget here spends about a quarter.
        at = [found.get((method, 0.3)) or found.get((method, None)), found.get((method, 0.2))]
        rows.append([name, *(f"{100 * entry['accuracy']['value'] / full:.1f}" if entry else UNREACHED for entry in at)])
    return _markdown(head, rows)


def rules(head: list[str], names: dict[str, str]) -> str:
    """Rules in the library's two stages on VideoNeedle, by model and budget."""
    columns = []
    for board in ("leaderboard", "leaderboard-qwen"):
        (part,) = json.loads((ROOT / "docs" / "data" / f"{board}.json").read_text(encoding="utf-8"))["frames"]
        columns += [
            {e["method"]: e for e in part["methods"] if e["budget"] == budget and e["reached"]} for budget in BUDGETS
        ]
    rows = [
        [name, *(percent(own[f"{method}@stages"]["accuracy"]["value"]) for own in columns)]
        for method, name in names.items()
    ]
    return _markdown(head, rows)


def rivals() -> str:
    """The default and how far it is from the best published rule, by stages and budget."""
    head = ["accuracy in %, and points to the best rule", "questions", *(f"{100 * budget:g} %" for budget in BUDGETS)]
    rows = []
    for label, board, schedule, frames in RIVALS:
        summary = json.loads((ROOT / "docs" / "data" / f"{board}.json").read_text(encoding="utf-8"))
        (part,) = [part for part in summary["frames"] if part["frames"] == frames]
        name = DEFAULT + (f"@{schedule}" if schedule else "")
        own = {entry["budget"]: entry for entry in part["methods"] if entry["method"] == name}
        cells = [_beside_rival(part, own.get(budget)) for budget in BUDGETS]
        rows.append([f"[{label}](../results/{board}.md)", str(part["questions"]), *cells])
    return _markdown(head, rows)


def _beside_rival(part: dict[str, Any], entry: dict[str, Any] | None) -> str:
    """A cell of :func:`rivals`; a dash where nothing was asked, or the budget cannot be reached."""
    rival = entry and entry["reached"] and entry["vs_rival"]
    if not entry or not rival:
        return UNREACHED
    (title,) = {other["title"] for other in part["methods"] if other["method"] == rival["method"]}
    title = title.removesuffix(f" @ {schedule_of(rival['method'])}")
    return f"{percent(entry['accuracy']['value'])}, {interval(rival['difference'])}, {title}"


def _named(names: dict[str, str]) -> dict[str, str]:
    """The same in Chinese."""
    return {method: WORDS_ZH.get(method, name) for method, name in names.items()}


TABLES = {
    **{name: partial(alternatives, name) for name in ALTERNATIVES},
    "llava-proportions": proportions,
    "end-to-end": lambda: end_to_end(SHORT, {}),
    "end-to-end-zh": lambda: end_to_end(SHORT_ZH, PLANS_ZH),
    "end-to-end-parts": parts,
    "decoding": decoding,
    "scaling-times": scaling_times,
    "scaling-memory": scaling_memory,
    "scaling-pixels": scaling_pixels,
    "scaling-answers": scaling_answers,
    "models": models,
    "rivals": rivals,
    "matrix": matrix,
    "refused": dispositions,
    "supported": lambda: supported(", ") + ".",
    "supported-zh": lambda: supported("、") + "。",
    "pretrained": lambda: pretrained(KEPT, METHODS_OF_FACTS),
    "pretrained-zh": lambda: pretrained(KEPT_ZH, _named(METHODS_OF_FACTS)),
    "rules": lambda: rules(ACCURACY, RULES),
    "rules-zh": lambda: rules(ACCURACY_ZH, _named(RULES)),
}


def updated(path: Path) -> str:
    """The text of a file with its tables as they should be."""
    text = path.read_text(encoding="utf-8")
    for name in FILES[path]:
        begin, end = f"<!-- {name}: scripts/update_tables.py -->", f"<!-- /{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{path.name} has no place for the table {name!r}: {begin} … {end}")
        block = f"{begin}\n{TABLES[name]()}\n{end}"
        text = pattern.sub(lambda _, block=block: block, text)
    return text


def main() -> None:
    """Write the files that differ."""
    for path in FILES:
        path.write_text(updated(path), encoding="utf-8")


if __name__ == "__main__":
    main()
