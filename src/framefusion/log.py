"""Files of JSON lines that survive being killed: append only, and a torn last line is dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from framefusion.errors import FrameFusionError

_BLOCK = 2**16


class LogError(FrameFusionError, ValueError):
    """A file of results that is damaged. The text is one sentence."""


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, none if it does not exist. A last line without its end was torn off and is dropped.

    Raises:
        LogError: another line is no JSON object; names it.
    """
    return list(each(path)) if path.exists() else []


def each(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that exists, one after the other; otherwise as :func:`read`."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise LogError(f"{path} line {number} is damaged; delete the line, and what it held is done again")
            yield row


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add objects at the end, in one piece; what a killed process left half-written is cut off first."""
    data = b"".join(line_of(row) for row in rows)
    with open(path, "a+b") as file:
        cut_torn(file)
        file.write(data)


def check_end(path: Path) -> None:
    """Refuse a file whose end :func:`append` would cut off although it is no half-written object.

    Raises:
        LogError: it ends in something else.
    """
    if not path.is_file():
        return
    with open(path, "rb") as file:
        end = _end_of_lines(file)
        file.seek(end)
        torn = file.read(1)
    # Behind a power failure there may be zeros in the place of what was written.
    if torn not in (b"", b"{", b"\0"):
        raise LogError(f"{path} ends in the middle of a line that is no JSON object; choose another file")


def replace(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file anew: whoever reads it sees the old one or the new one, nothing between."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(b"".join(line_of(row) for row in rows))
    os.replace(draft, path)


def line_of(row: Mapping[str, Any]) -> bytes:
    """An object as one line."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def cut_torn(file: Any) -> None:
    """Cut off a last line without its end from a binary file, and go to the end."""
    length = file.seek(0, os.SEEK_END)
    end = _end_of_lines(file)
    if end < length:
        file.truncate(end)
    file.seek(end)


def _end_of_lines(file: Any) -> int:
    """The byte behind the last line of a binary file that has its end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        cut = file.read(end - begin).rfind(b"\n") + 1
        if cut:
            return int(begin + cut)
        end = begin
    return 0
