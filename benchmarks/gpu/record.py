"""What a part found out, in a JSON file that is whole after every row."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATUS = ("running", "passed", "failed", "absent")
"""``absent``: what the part is about is not there, and its ``reason`` says so. ``running`` was not ended by itself."""

LONGEST = 4000
"""Characters of an error, of which the beginning is kept, and of a traceback, of which the end is."""


class Absent(Exception):  # noqa: N818
    """What a part is about is not there."""


class Record:
    """The results of one part.

    Args:
        path: of the JSON file.
        facts: what the numbers depend on, for the top of the file.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self._began = path, time.monotonic()
        self.data: dict[str, Any] = {**facts, "status": "running", "seconds": 0.0, "rows": [], "errors": []}
        self.save()

    def save(self) -> None:
        """Write the file; a reader finds the old one or the new one, never half of it."""
        self.data["seconds"] = round(time.monotonic() - self._began, 1)
        write(self.path, self.data)

    def add(self, **row: Any) -> None:
        """Add a row."""
        self.data["rows"].append(row)
        self.save()

    def fail(self, step: str, error: str, trace: str = "") -> None:
        """Note what went wrong; the part goes on."""
        self.data["errors"].append({"step": step, "error": error[:LONGEST], "traceback": trace[-LONGEST:]})
        self.save()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Whatever is raised inside is noted, and what comes behind goes on; :class:`Absent` ends the part."""
        try:
            yield
        except Absent:
            raise
        except Exception as error:
            self.fail(name, f"{type(error).__name__}: {error}", traceback.format_exc())

    def finish(self) -> None:
        """The part came to its end."""
        self.data["status"] = "failed" if self.data["errors"] else "passed"
        self.save()

    def absent(self, reason: str) -> None:
        """The part has nothing to run."""
        self.data.update(status="absent", reason=reason)
        self.save()


def write(path: Path, data: dict[str, Any]) -> None:
    """Put JSON in the place of a file at once."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
