"""The directory of an evaluation: what was asked, every answer, every cell, the summary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framefusion import log
from framefusion.log import LogError

IDENTITY = ("model", "data", "new_tokens")
"""What must stay the same in one directory, or its answers could not be compared."""


class Store:
    """Results that can be added to, and that a killed evaluation leaves usable.

    * ``run.json``: what was asked of which model, with all commands that added to it.
    * ``questions.jsonl``: one line for each answered question.
    * ``part-*.jsonl``: the same while an evaluation runs, one file for each process.
    * ``cells.jsonl``: one line for each cell with what was measured.
    * ``summary.json`` and what is drawn from it.

    Args:
        directory: made if it does not exist.

    Raises:
        LogError: the directory cannot be made, or holds a damaged file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(f"cannot make the directory {directory}: {error.strerror}") from error

    def open(self, identity: Mapping[str, Any], command: str, versions: Mapping[str, str]) -> dict[str, Any]:
        """Check that the directory is about the same model and data, and note the command.

        Args:
            identity: values of :data:`IDENTITY`.
            command: the command line, for whoever reads the results.
            versions: of the packages.

        Returns:
            The content of ``run.json``.

        Raises:
            LogError: the directory holds answers to something else.
        """
        path = self.directory / "run.json"
        known = self._manifest(path)
        for key in IDENTITY if known else ():
            if known[key] != identity[key]:
                raise LogError(
                    f"{self.directory} holds results of another {key.replace('_', ' ')} ({known[key]}, now "
                    f"{identity[key]}); choose another directory, or delete it"
                )
        commands = [*known.get("commands", []), command]
        manifest = {**identity, "versions": dict(versions), "commands": list(dict.fromkeys(commands))}
        self.write("run.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        return manifest

    def part(self, number: int) -> Path:
        """The file for the answers of one process."""
        return self.directory / f"part-{number}.jsonl"

    def collect(self) -> list[dict[str, Any]]:
        """All answers, of a cell and question the latest; the parts are merged into ``questions.jsonl``."""
        path = self.directory / "questions.jsonl"
        parts = sorted(self.directory.glob("part-*.jsonl"))
        rows = {(row["cell"], row["question"]): row for file in (path, *parts) for row in log.read(file)}
        if parts:
            log.replace(path, rows.values())
            for part in parts:
                part.unlink()
        return list(rows.values())

    def cells(self) -> list[dict[str, Any]]:
        """The lines of ``cells.jsonl``."""
        return log.read(self.directory / "cells.jsonl")

    def write_cells(self, cells: Iterable[Mapping[str, Any]]) -> None:
        """Write ``cells.jsonl`` anew."""
        log.replace(self.directory / "cells.jsonl", cells)

    def write(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        draft = self.directory / f"{name}.new"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.directory / name)

    def _manifest(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            return {}
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            assert all(key in known for key in IDENTITY)
        except (ValueError, AssertionError) as error:
            raise LogError(f"{path} is damaged; choose another directory, or delete this one") from error
        return known
