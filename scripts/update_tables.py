"""Write the tables of the docs that come from the registry and measurements: ``python scripts/update_tables.py``.

The models come from ``framefusion.hf.families``, the differences from ``docs/data/matrix.json`` (``make test-all``),
the readers of videos from ``docs/data/decoding.json`` (``python -m benchmarks.decoding``). A test fails while a file
differs from what this would write.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from framefusion.hf.families import refused, table

ROOT = Path(__file__).resolve().parent.parent
MATRIX = ROOT / "docs" / "data" / "matrix.json"
DECODING = ROOT / "docs" / "data" / "decoding.json"
FILES = {
    ROOT / "docs" / "models.md": ("models", "matrix", "refused"),
    ROOT / "docs" / "decoding.md": ("decoding",),
    ROOT / "README.md": ("supported",),
    ROOT / "README.zh.md": ("supported-zh",),
}


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


def supported(head: list[str]) -> str:
    """The registry in short."""
    return _markdown(head, [[row["name"], f"`{row['model_class']}`"] for row in table()])


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


TABLES = {
    "decoding": decoding,
    "models": models,
    "matrix": matrix,
    "refused": dispositions,
    "supported": lambda: supported(["family", "class"]),
    "supported-zh": lambda: supported(["模型系列", "类"]),
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
