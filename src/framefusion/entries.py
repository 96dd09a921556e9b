"""Questions as JSON: what one line of a file may hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from framefusion.errors import ArgumentError

KEYS = ("video", "question", "answer", "kind", "tags")
"""What every command that reads questions knows."""


def parse_entry(line: str, where: str, keys: Sequence[str] = KEYS) -> dict[str, Any]:
    """The object of one line; ``tags`` is a list of texts, ``id`` a text or a whole number, the rest texts that are not
    empty. Every key may be missing or null.

    Args:
        line: JSON.
        where: what to call the line in an error.
        keys: what it may hold.

    Raises:
        ValueError: it is no such object; names the line and the key.
    """
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"{where} is no JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{where} is no JSON of a question: {error}") from error
    if not isinstance(entry, dict):
        raise ArgumentError(f'{where} must be an object such as {{"video": …, "question": …}}, got {line.strip()[:40]}')
    unknown = sorted(set(entry) - set(keys))
    if unknown:
        raise ArgumentError(f"{where} has an unknown key {unknown[0]!r}; known are {', '.join(keys)}")
    for key, value in entry.items():
        _check_value(key, value, where)
    return entry


def _check_value(key: str, value: Any, where: str) -> None:
    if value is None:
        return
    if key == "tags":
        if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
            raise ArgumentError(f"{where}: tags must be a list of texts, got {value!r}")
    elif key == "id" and isinstance(value, int) and not isinstance(value, bool):
        return
    elif not isinstance(value, str) or not value.strip():
        kind = "a whole number or a text" if key == "id" else "a text"
        raise ArgumentError(f"{where}: {key} must be {kind} that is not empty, got {value!r}")
