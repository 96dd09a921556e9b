"""docs/results/gpu.md from the results of a run.

python -m benchmarks.gpu.page out/gpu    # takes them into docs/data/gpu-*.json and writes the page
python -m benchmarks.gpu.page            # writes the page from docs/data/gpu-*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS
from benchmarks.markdown import milliseconds, table

Data = dict[str, Any]
DOCS = Path(__file__).resolve().parents[2] / "docs"

HEAD = """# On a GPU

What `make gpu` finds out ([CONTRIBUTING](../../CONTRIBUTING.md#run-on-a-gpu)): whether the selection and whole models
are right on a GPU, and how long things take there. `make gpu-page` takes the results of a run into
`docs/data/gpu-*.json` and writes this page."""

NOTHING = """**No GPU has run this yet.** `make gpu-rehearse` runs each part on a CPU with everything shrunk, Triton's
kernels in their interpreter; they compile for sm_80 and sm_90 without a device
(`tests/selection/compile_kernels.py`)."""


def page(found: Sequence[Data]) -> str:
    """The page as Markdown, from the results of the parts that there are."""
    return f"{HEAD}\n\n{sections(found) if found else NOTHING}\n"


def sections(found: Sequence[Data]) -> str:
    """What was run where, and a section for each part."""
    ran = [[f"`{data['part']}`", data.get("title", ""), outcome(data), f"{data['seconds']:.0f} s"] for data in found]
    text = [f"{where(found)}\n\n{table(['part', 'what', 'outcome', 'time'], ran)}"]
    for data in found:
        if data["status"] != "absent":
            own = [f"## {data.get('title', data['part'])}", SECTIONS[data["part"]](data), errors(data)]
            text.append("\n\n".join(part for part in own if part))
    return "\n\n".join(text)


def where(found: Sequence[Data]) -> str:
    """The devices, versions and commands, each once."""
    facts = {}
    for data in found:
        device = " ".join(
            f"{value} GB" if key == "gigabytes" else str(value) for key, value in data.get("device", {}).items()
        )
        versions = ", ".join(f"{name} {version}" for name, version in data.get("versions", {}).items())
        rehearsed = " A rehearsal: no number means anything." if data.get("rehearsal") else ""
        facts[f"{device or 'no device'}; {versions or 'nothing known'}; `{data.get('command', '')}`.{rehearsed}"] = None
    return "\n".join(facts)


def outcome(data: Data) -> str:
    """How a part ended."""
    if data["status"] == "absent":
        return f"not there: {data['reason']}"
    count = len(data["errors"])
    return data["status"] if not count else f"**{data['status']}**, {count} {'error' if count == 1 else 'errors'}"


def errors(data: Data) -> str:
    """What went wrong, a line each."""
    lines = [f"- `{error['step']}`: {(error['error'].splitlines() or [''])[0]}" for error in data["errors"][:20]]
    more = len(data["errors"]) - len(lines)
    return "\n".join([*lines, *([f"- and {more} more"] if more > 0 else [])])


def suite(data: Data) -> str:
    """How many tests ended how."""
    counts = {name: count for name, count in data.get("tests", {}).items() if name != "slowest"}
    return "Tests: " + (", ".join(f"{count} {name}" for name, count in counts.items()) or "none") + "."


def oracle(data: Data) -> str:
    """Per family and kind of attention, the worst of all comparisons."""
    rows = []
    for key, own in grouped(data["rows"], "family", "attention", "dtype"):
        ratios = [row["rms"] / row["rms_of_oracle"] for row in own if "rms" in row]
        rows.append(
            [
                *key,
                str(len(own)),
                str(sum(row["passed"] for row in own)),
                f"{max(row['largest_difference'] for row in own):.0e}",
                f"{max(ratios):.2f}" if ratios else "",
            ]
        )
    head = ["family", "attention", "dtype", "comparisons", "passed", "largest difference", "error / oracle's own"]
    return table(head, rows)


def prefill(data: Data) -> str:
    """A table for each length of video."""
    billions = data.get("parameters", 0) / 1e9
    text = [f"{billions:.2f} billion parameters with random weights, bfloat16; medians of CUDA events."]
    head = ["plan", "mean share", "prefill", "repeats", "speed-up", "ideal", "ideal / prefill", "stages", "first token"]
    for (frames, tokens), own in grouped(data["rows"], "frames", "visual_tokens"):
        by = {(row["measure"], row["plan"]): row for row in own}
        rows = [plan_row(by, plan) for plan in dict.fromkeys(row["plan"] for row in own if row["measure"] != "tower")]
        tower = by.get(("tower", "all tokens"))
        said = f" The tower takes {milliseconds(tower['median'])}." if tower else ""
        text.append(f"**{frames} frames, {tokens} visual tokens.**{said}")
        text.append(table([*head, "per token", "peak extra memory"], rows))
    return "\n\n".join(text)


def plan_row(by: dict[tuple[str, str], Data], plan: str) -> list[str]:
    """What was measured of a plan."""

    def of(measure: str, name: str, show: Callable[[Any], str]) -> str:
        value = by.get((measure, plan), {}).get(name)
        return "" if value is None else show(value)

    ideal, own = (by.get((measure, plan), {}).get("median") for measure in ("ideal", "prefill"))
    return [
        plan,
        of("prefill", "mean_share", "{:.1%}".format),
        of("prefill", "median", milliseconds),
        of("prefill", "repeats", str),
        of("prefill", "speed_up", "{:.2f}×".format),
        of("ideal", "median", milliseconds),
        f"{ideal / own:.0%}" if ideal and own else "",
        of("prefill", "stages_share_of_full", "{:.2%}".format),
        of("first token", "median", milliseconds),
        of("per token", "median", milliseconds),
        of("memory", "extra_bytes", mebibytes),
    ]


def kernels(data: Data) -> str:
    """A table for each of the measurement's."""
    text = []
    for (title, dtype), own in grouped(data["rows"], "table", "dtype"):
        rows = [
            [
                row["name"],
                milliseconds(row["median"]),
                str(row["repeats"]),
                f"{row['of_ours']:.2f}×",
                "" if row["launches"] is None else str(row["launches"]),
                "" if row["extra_bytes"] is None else mebibytes(row["extra_bytes"]),
            ]
            for row in own
        ]
        known = {"table", "dtype", "name", "median", "milliseconds", "repeats", "of_ours", "launches", "extra_bytes"}
        checks = ", ".join(f"{key.replace('_', ' ')}: {number(v)}" for key, v in own[0].items() if key not in known)
        text.append(f"**{title}, {dtype}** ({checks})")
        text.append(table(["", "median", "repeats", "of ours", "launches", "extra memory"], rows))
    return "\n\n".join(text)


def decoding(data: Data) -> str:
    """A row for each plan and way."""
    rows = [
        [
            row["plan"],
            row["way"],
            milliseconds(row["median"]),
            str(row["repeats"]),
            f"{row['warm_up_seconds']:.1f} s",
            row["same_tokens"],
        ]
        for row in data["rows"]
    ]
    return table(["plan", "steps", "per token", "repeats", "warm-up", "tokens as eager"], rows)


def tower(data: Data) -> str:
    """A row for each video and plan."""
    rows = [
        [
            str(row["frames"]),
            f"{row['changed']:.0%}",
            row["tower"],
            f"{row['encoded']:.1%}",
            milliseconds(row["median"]),
            str(row["repeats"]),
            f"{row['speed_up']:.2f}×",
        ]
        for row in data["rows"]
    ]
    return table(["frames", "changed", "tower encodes", "share", "first token", "repeats", "speed-up"], rows)


SECTIONS: dict[str, Callable[[Data], str]] = {
    "contract": suite,
    "oracle": oracle,
    "prefill": prefill,
    "kernels": kernels,
    "decoding": decoding,
    "tower": tower,
    "engine": suite,
}


def grouped(rows: Iterable[Data], *names: str) -> list[tuple[tuple[Any, ...], list[Data]]]:
    """Rows by their values of some names, in the order in which these come first."""
    found: dict[tuple[Any, ...], list[Data]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.items())


def mebibytes(count: int) -> str:
    """Bytes in a table."""
    return f"{count / 2**20:,.0f} MiB"


def number(value: Any) -> str:
    """A number or a yes or no in a text."""
    return f"{value:.3g}" if isinstance(value, float) else {True: "yes", False: "no"}.get(value, str(value))


def results(folder: Path, prefix: str = "") -> list[Data]:
    """What the parts wrote into a folder, in their order."""
    paths = [folder / f"{prefix}{part.name}.json" for part in PARTS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def take(folder: Path, docs: Path) -> None:
    """Take the results of a run into the docs, in the place of older ones of the same parts.

    Raises:
        ValueError: there are none, or they are of a rehearsal.
    """
    found = results(folder)
    if not found:
        raise ValueError(f"{folder} has no results of a run; make gpu OUT={folder} writes them")
    if any(data.get("rehearsal") for data in found):
        raise ValueError(f"{folder} has the results of a rehearsal, whose numbers mean nothing; run without --rehearse")
    for data in found:
        path = docs / "data" / f"gpu-{data['part']}.json"
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of a run whose results are to be taken into the docs")
    args = parser.parse_args()
    if args.folder is not None:
        try:
            take(args.folder, DOCS)
        except ValueError as error:
            sys.exit(str(error))
    (DOCS / "results" / "gpu.md").write_text(page(results(DOCS / "data", "gpu-")), encoding="utf-8")


if __name__ == "__main__":
    main()
