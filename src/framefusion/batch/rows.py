"""The questions of a batch: one JSON object a line, read one after the other."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from framefusion.asking.entries import KEYS, located, media_of, parse_entry
from framefusion.checks import is_whole
from framefusion.errors import FrameFusionError

ROW_KEYS = ("id", "prompt", *KEYS)
"""What a row may hold: what ``framefusion eval`` reads, an id, and ``prompt`` as another name of ``question``. The
``answer``, ``kind`` and ``tags`` of an evaluation are allowed and change nothing."""

MAX_LINE = 2**20
"""Longest line in bytes; of a longer one no more than this is ever in memory."""

_BOM = b"\xef\xbb\xbf"


class RowError(FrameFusionError, ValueError):
    """One row that cannot be answered. The text is one sentence."""


class BatchError(FrameFusionError, RuntimeError):
    """A batch that cannot begin or go on. The text is one sentence."""


@dataclass(frozen=True)
class Row:
    """One line of the questions.

    Attributes:
        line: its number in the file, from 1.
        fingerprint: 12 hexadecimal digits that change with the line's bytes.
        id: as given; None without one.
        media: the videos and photographs in order: addresses, or paths made absolute from the directory of the file.
        question: what to ask.
        problem: why the line is no question; then ``media`` and ``question`` are empty.
    """

    line: int
    fingerprint: str
    id: str | int | None = None
    media: tuple[str, ...] = ()
    question: str = ""
    problem: str | None = None


def by_media(rows: Iterable[Row], window: int = 1000) -> Iterator[Row]:
    """The same rows, those about the same media one after the other, as far as a window reaches.

    Args:
        rows: in any order.
        window: rows that are looked at together.
    """
    source = iter(rows)
    while batch := list(islice(source, window)):
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in batch:
            groups.setdefault(row.media, []).append(row)
        for group in groups.values():
            yield from group


GROUP = 16
"""Rows about the same media that are read together, so that the media after them are known ahead."""


def together(rows: Iterable[Row], most: int = GROUP) -> Iterator[list[Row]]:
    """The same rows in the same order, in groups about the same media.

    Args:
        rows: in any order.
        most: rows of a group.
    """
    group: list[Row] = []
    for row in rows:
        if group and (row.media != group[0].media or len(group) == most):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, empty lines left out. A line that is no question becomes a row with a ``problem``.

    Raises:
        BatchError: the file cannot be read.
    """
    directory = path.absolute().parent
    for line, fingerprint, data in _lines(path):
        try:
            if data is None:
                raise RowError(f"line {line} is longer than {MAX_LINE} bytes")
            identity, media, question = _question(data, f"line {line}")
        except ValueError as error:
            yield Row(line, fingerprint, _id_of(data), problem=str(error))
        else:
            yield Row(line, fingerprint, identity, tuple(located(source, directory) for source in media), question)


def fingerprints(path: Path) -> Iterator[tuple[int, str]]:
    """Number and fingerprint of every row of a file, as :func:`read_rows` gives them, without parsing."""
    return ((line, fingerprint) for line, fingerprint, _ in _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, str, bytes | None]]:
    """Number, fingerprint and bytes of every line that is not empty; None for the bytes of one that is too long."""
    number = 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # A pipe could not be read twice, and a batch that goes on has to.
            raise BatchError(f"{path} is no file of questions; name a file with one JSON object a line")
        with open(path, "rb") as file:
            while data := file.readline(MAX_LINE + 1):
                number += 1
                line = data.removeprefix(_BOM) if number == 1 else data
                if len(data) > MAX_LINE:
                    yield number, _rest(line, file), None
                elif line := line.strip():
                    yield number, hashlib.sha256(line).hexdigest()[:12], line
    except FileNotFoundError as error:
        raise BatchError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise BatchError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _rest(data: bytes, file: Any) -> str:
    """Fingerprint of a line that is too long, read to its end."""
    digest = hashlib.sha256(data)
    while not data.endswith(b"\n") and (data := file.readline(MAX_LINE)):
        digest.update(data)
    return digest.hexdigest()[:12]


def _question(data: bytes, where: str) -> tuple[str | int | None, list[str], str]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RowError(f"{where} is no UTF-8 text: {error.reason}") from error
    entry = parse_entry(text, where, ROW_KEYS)
    if not _is_text(entry):
        raise RowError(f"{where} has half of a surrogate pair, which is no character")
    media, question, prompt = media_of(entry), entry.get("question"), entry.get("prompt")
    if question is not None and prompt is not None:
        raise RowError(f"{where} has a question and a prompt, which mean the same; give one of them")
    question = prompt if question is None else question
    if not media or question is None:
        raise RowError(f"{where} has no {'question' if media else 'video'}")
    for source in media:
        if "\0" in source:
            raise RowError(f"{where}: video must be the path of a file, got {source!r}")
    return entry.get("id"), media, question


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _id_of(data: bytes | None) -> str | int | None:
    """The id of a line that is no question, if it has a usable one."""
    try:
        found = json.loads(data or b"").get("id")
    except (ValueError, AttributeError, RecursionError):
        return None
    usable = (isinstance(found, str) or is_whole(found)) and _is_text(found)
    return found if usable else None
