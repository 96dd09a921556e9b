"""Questions as JSON: what one line of a file may hold."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framefusion.checks import is_whole
from framefusion.errors import ArgumentError

MEDIA = ("video", "image")
"""Where the media of a question are: a path, or a list of paths in order. Both mean the same."""

KEYS = ("video", "question", "answer", "kind", "tags", "image")
"""What every command that reads questions knows."""


def parse_entry(line: str, where: str, keys: Sequence[str] = KEYS) -> dict[str, Any]:
    """The object of one line; ``tags`` is a list of texts, ``video`` and ``image`` a text or a list of texts, ``id`` a
    text or a whole number, the rest texts; none is empty but ``tags``. Every key may be missing or null.

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
    elif key in MEDIA and isinstance(value, list):
        if not value or not all(isinstance(source, str) and source.strip() for source in value):
            raise ArgumentError(f"{where}: {key} must be a text or a list of texts that are not empty, got {value!r}")
    elif key == "id" and is_whole(value):
        return
    elif not isinstance(value, str) or not value.strip():
        kind = "a whole number or a text" if key == "id" else "a text"
        raise ArgumentError(f"{where}: {key} must be {kind} that is not empty, got {value!r}")


def media_of(entry: Mapping[str, Any]) -> list[str]:
    """The sources that an entry of :func:`parse_entry` names, those of ``video`` first."""
    found: list[str] = []
    for key in MEDIA:
        given = entry.get(key)
        found += [] if given is None else [given] if isinstance(given, str) else given
    return found


def located(source: str, directory: Path) -> str:
    """A source as seen from ``directory``; addresses stay as they are."""
    return source if "://" in source else os.path.join(directory, source)
