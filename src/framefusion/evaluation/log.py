"""Files of JSON lines that survive being killed: append only, and a torn last line is dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class LogError(ValueError):
    """A file of results that is damaged. The text is one sentence."""


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, none if it does not exist. A last line without its end was torn off and is dropped.

    Raises:
        LogError: another line is no JSON object; names it.
    """
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(whole, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise LogError(f"{path} line {number} is damaged; delete the line, and what it held is done again")
        rows.append(row)
    return rows


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add objects at the end, in one piece; what a killed process left half-written is cut off first."""
    data = b"".join(_line(row) for row in rows)
    with open(path, "a+b") as file:
        _cut_torn(file)
        file.write(data)


def replace(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file anew: whoever reads it sees the old one or the new one, nothing between."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(b"".join(_line(row) for row in rows))
    os.replace(draft, path)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _cut_torn(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
