"""Where a video or picture comes from: a file, a folder, an address, or standard input."""

from __future__ import annotations

import http
import http.client
import logging
import os
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from framefusion.asking.decoding.errors import VideoError

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(data):")
_SCHEMES = ("http", "https")
_SECONDS = 60.0
"""How long a server may be silent."""
_MOST_BYTES = 32 * 2**30
_CHUNK = 2**20
_HEAD = 1024
_AGAIN = 3
"""Attempts to fetch what a lost connection left out."""


@dataclass(frozen=True)
class Source:
    """Something to read.

    Attributes:
        name: what messages call it.
        location: what FFmpeg opens: an absolute path, or the address of a playlist.
        remote: whether it is an address.
    """

    name: str
    location: str
    remote: bool = False

    @property
    def path(self) -> Path:
        """The file; of an address, its path on the server."""
        return Path(urllib.parse.urlsplit(self.name).path if scheme_of(self.name) is not None else self.name)


@contextmanager
def source_of(given: str | os.PathLike[str]) -> Iterator[Source]:
    """What ``given`` names; what comes from an address or standard input lies in a temporary file meanwhile.

    Raises:
        VideoError: see :func:`check_source`; standard input is empty, or an address cannot be fetched.
    """
    text = check_source(given)
    if text != STANDARD_INPUT and scheme_of(text) is None:
        # an absolute path can never be taken for an address
        yield Source(text, os.path.abspath(text))
        return
    with tempfile.TemporaryDirectory(prefix="framefusion-") as directory:
        if text == STANDARD_INPUT:
            path = Path(directory, "standard-input")
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            if not path.stat().st_size:
                raise VideoError("standard input is empty; pipe a video into it, or name a file")
            yield Source("standard input", str(path))
            return
        # Every packet is read anyway, and not every server can send a part of a file.
        path = Path(directory, "fetched" + Source(text, text).path.suffix)
        playlist = _fetch(text, path)
        yield Source(text, text, remote=True) if playlist else Source(text, str(path))


@contextmanager
def _answer(address: str, begin: int = 0) -> Iterator[Any]:
    """What a server answers, if it can from byte ``begin`` on.

    Raises:
        VideoError: it cannot be reached, refuses, or stops in the middle.
    """
    escaped = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    try:
        asked = urllib.request.Request(escaped, headers={"Range": f"bytes={begin}-"} if begin else {})
        with urllib.request.urlopen(asked, timeout=_SECONDS) as answer:
            yield answer
    except VideoError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        status = f"{error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        raise VideoError(f"{address} cannot be fetched ({status}{str(reason).lower()})") from error


def _is_broadcast(answer: Any) -> bool:
    return answer.headers.get_content_maintype() == "multipart"


def _is_playlist(head: bytes) -> bool:
    return head.lstrip().startswith(b"#EXTM3U") or b"<MPD" in head


def has_length(address: str) -> bool | None:
    """Whether the server says how long the file at an address is; None for a playlist, which has to be opened to know.

    Raises:
        VideoError: the address cannot be fetched.
    """
    with _answer(address) as answer:
        if _is_broadcast(answer):
            return False
        if answer.headers.get("Content-Length") is None:
            return False  # and the first bytes of a broadcast may be long in coming
        return None if _is_playlist(answer.read(_HEAD)) else True


def _fetch(address: str, path: Path) -> bool:
    """Copy what is at an address into a file; whether it is a playlist, of which that is not enough."""
    with path.open("wb") as file:
        for _ in range(1 + _AGAIN):
            expected = _fetch_rest(address, file)
            if expected is None or file.tell() >= expected:
                break
            logger.warning("%s: the connection was lost after %d of %d bytes", address, file.tell(), expected)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.lstrip():
        raise VideoError(f"{address} is empty, not a video")
    return _is_playlist(head)


def _fetch_rest(address: str, file: BinaryIO) -> int | None:
    """Append what a file lacks of what is at an address; how long it should be, if the server says so."""
    begin = file.tell()
    with _answer(address, begin) as answer:
        if _is_broadcast(answer):
            raise VideoError(f"{address} is a broadcast without an end; record a part of it and name that file")
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        length = answer.headers.get("Content-Length")
        expected = None if length is None else int(length) + (begin if goes_on else 0)
        if not goes_on:
            file.seek(0)
        try:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                if file.tell() > _MOST_BYTES:
                    raise VideoError(f"{address} is larger than {_MOST_BYTES // 2**30} GiB; fetch it and name the file")
        except (ConnectionError, http.client.IncompleteRead):
            if expected is None:
                raise
        file.seek(0, os.SEEK_END)
        return expected


def check_source(given: str | os.PathLike[str]) -> str:
    """``given`` as text, if there is something to read.

    Raises:
        VideoError: no such file, an empty one, one that may not be read, an address of another kind than ``http`` and
            ``https``, or standard input that is a terminal.
    """
    text = os.fspath(given)
    if not isinstance(text, str):
        raise VideoError(f"the path of a video must be a text, got {type(text).__name__}")
    if text == STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.isatty():
            raise VideoError("standard input is a terminal; pipe a video into it, or name a file")
        return text
    scheme = scheme_of(text)
    if scheme is not None:
        if scheme not in _SCHEMES:
            raise VideoError(f"{shortened(text)} is not an address that can be read; {' and '.join(_SCHEMES)} are")
        return text
    try:
        size = os.stat(text).st_size
        os.scandir(text).close() if os.path.isdir(text) else open(text, "rb").close()
    except FileNotFoundError:
        raise VideoError(f"no such file: {shortened(text)}") from None
    except (OSError, ValueError) as error:
        # too long a name, one with a NUL byte, a circle of links, a file taken for a directory, no permission
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{shortened(text)} cannot be opened ({reason.lower()})") from error
    if not size and not os.path.isdir(text):
        raise VideoError(f"{text} is empty, not a video")
    return text


def scheme_of(text: str) -> str | None:
    """The scheme of an address in lower case; None for a path."""
    found = _ADDRESS.match(text)
    return None if found is None else (found[1] or found[2]).lower()


def shortened(text: str, most: int = 120) -> str:
    """A name for a message: long ones lose their middle, and what a terminal cannot show is escaped."""
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"
