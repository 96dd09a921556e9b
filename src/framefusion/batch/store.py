"""The file of results: rows are only ever added, and whatever ends a batch leaves it usable."""

from __future__ import annotations

import json
import logging
import os
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from framefusion import log
from framefusion.batch.answering import Result
from framefusion.batch.rows import BatchError, Row
from framefusion.log import LogError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""A row is handed to the operating system at once, which is enough for a killed process. Onto the disk rows are forced
so often: a power failure costs about so many seconds of answers, and those rows are answered again."""

SCHEMA = 1


class Finished:
    """The rows that a file of results holds: eight bytes for each line of the questions."""

    def __init__(self) -> None:
        self._known = array("Q")
        self.count = 0

    def add(self, line: int, fingerprint: str) -> None:
        """Note a row."""
        if line >= len(self._known):
            self._known.extend([0] * (line + 1 - len(self._known)))
        self.count += not self._known[line]
        self._known[line] = _number(fingerprint)

    def __contains__(self, line: int) -> bool:
        return line < len(self._known) and self._known[line] != 0

    def agrees(self, line: int, fingerprint: str) -> bool:
        """Whether a finished line still is what it was."""
        return self._known[line] == _number(fingerprint)

    @property
    def last(self) -> int:
        """The largest line number, 0 without any."""
        return max(0, len(self._known) - 1)


def _number(fingerprint: str) -> int:
    # One bit more, so that no fingerprint is 0.
    return int(fingerprint, 16) | 1 << 63


class Results:
    """``results.jsonl``, and beside it ``results.jsonl.run.json``, which says how its rows were answered.

    Use it as a context: it is locked for one process while it is open.

    Args:
        path: the file of results; made if it does not exist.

    Raises:
        BatchError: it cannot be written, another process writes to it, or it is no file of results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise BatchError(f"cannot write {path}: it is no file")
        self.manifest = path.with_name(path.name + ".run.json")
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise BatchError(f"cannot write {path}: {error.strerror}") from error
        try:
            self._lock()
            self._synced = time.monotonic()
            self._content = self._read_manifest()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        except BatchError:
            if kind is None:
                raise
        finally:
            self._file.close()

    def check(self, identity: Mapping[str, Any]) -> None:
        """Compare with what is known of the rows that are there; names that are not known yet pass.

        Raises:
            BatchError: the rows were answered in another way.
        """
        for name, value in identity.items():
            known = self._content.get(name, value)
            if known != value:
                raise BatchError(
                    f"the answers in {self.path} differ in {name} ({_difference(known, value)}); choose another file, "
                    f"or delete it and {self.manifest.name}"
                )

    def describe(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write down how the rows are answered, before the first of them is.

        Args:
            identity: what must stay the same, see :meth:`check`.
            about: for whoever reads the results.

        Raises:
            BatchError: see :meth:`check`; or the file cannot be written.
        """
        self.check(identity)
        content = {"schema": SCHEMA, **self._content, **identity, **about}
        if content == self._content:
            return
        draft = self.manifest.with_name(self.manifest.name + ".new")
        try:
            with open(draft, "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.manifest)
            self._sync_directory()
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise self._unwritable(error) from error
        self._content = content

    def finished(self) -> Finished:
        """The rows that are there. What a killed process left half-written is cut off first.

        Raises:
            BatchError: a line is damaged.
        """
        found = Finished()
        try:
            log.cut_torn(self._file)
            for number, row in enumerate(log.each(self.path), start=1):
                line, fingerprint = row.get("line"), row.get("fingerprint")
                if not (isinstance(line, int) and line > 0 and _is_fingerprint(fingerprint)):
                    raise LogError(
                        f"{self.path} line {number} is no row of a batch; delete the line, or choose another"
                    )
                found.add(line, str(fingerprint))
        except LogError as error:
            raise BatchError(str(error)) from error
        except OSError as error:
            raise self._unwritable(error) from error
        return found

    def add(self, row: Row, result: Result) -> None:
        """Write what became of a row, whole or not at all.

        Raises:
            BatchError: the disk is full, or cannot be written for another reason. What was there stays.
        """
        data = log.line_of({"line": row.line, "id": row.id, "fingerprint": row.fingerprint, **result})
        end = self._file.seek(0, os.SEEK_END)
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()
        except OSError as error:
            self._take_back(end)
            raise self._unwritable(error) from error

    def sync(self) -> None:
        """Force what is written onto the disk.

        Raises:
            BatchError: that failed.
        """
        self._synced = time.monotonic()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _sync_directory(self) -> None:
        """A power failure must not leave results without what says how they were made."""
        if fcntl is None:
            return
        directory = os.open(self.path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _take_back(self, end: int) -> None:
        try:
            self._file.truncate(end)
        except OSError:
            logger.debug("half a row stays in %s until it is opened again", self.path, exc_info=True)

    def _unwritable(self, error: OSError) -> BatchError:
        return BatchError(
            f"cannot write {self.path}: {error.strerror or error}; what is there stays, and the same command goes on "
            "with it"
        )

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BatchError(f"another process is writing {self.path}; wait for it, or choose another file") from error
        except OSError:
            logger.debug("%s is on a file system without locks", self.path, exc_info=True)

    def _read_manifest(self) -> dict[str, Any]:
        if not self._file.seek(0, os.SEEK_END):
            return {}
        if not self.manifest.exists():
            raise BatchError(
                f"{self.path} is there already and has no {self.manifest.name} that says how it was made; choose "
                "another file, or delete it"
            )
        try:
            content = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BatchError(f"{self.manifest} is damaged; choose another file for the results") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise BatchError(f"{self.manifest} is of another version of framefusion; choose another file")
        return content


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 12 and set(value) <= set("0123456789abcdef")


def _difference(known: Any, now: Any) -> str:
    """What differs, field by field where both are objects."""
    if isinstance(known, dict) and isinstance(now, dict):
        names = [name for name in {**known, **now} if known.get(name) != now.get(name)]
        return ", ".join(f"{name} {known.get(name)}, now {now.get(name)}" for name in names)
    return f"{known}, now {now}"
