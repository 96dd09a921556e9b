"""The command on a pseudo-terminal, with somebody at the keys."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

INTERRUPT, END = "\x03", "\x04"
"""Ctrl-C and Ctrl-D."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x07")
_PATIENCE = 120


class Terminal:
    """A process whose terminal this is; a context manager.

    Args:
        words: of the command.
        directory: where it runs.
    """

    def __init__(self, words: list[Any], directory: Path) -> None:
        import fcntl
        import pty
        import termios

        self.descriptor, theirs = pty.openpty()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "framefusion", *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=directory,
            start_new_session=True,
            # So that Ctrl-C is a signal to it.
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.descriptor)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.descriptor, text.encode())

    def until(self, text: str) -> str:
        """What is shown up to a text that has to come, with it."""
        deadline = time.monotonic() + _PATIENCE
        while text not in self._text:
            assert time.monotonic() < deadline, f"{text!r} does not come: {self._text!r}"
            assert self._read(), f"{text!r} did not come: {self._text!r}"
        shown, _, self._text = self._text.partition(text)
        return shown + text

    def press(self, key: str, text: str) -> None:
        """Press a key, every second again, until a text comes.

        A signal that comes while readline takes a character in waits for the next one.
        """
        deadline = time.monotonic() + _PATIENCE
        while text not in self._text:
            assert time.monotonic() < deadline, f"{text!r} does not come: {self._text!r}"
            self.type(key)
            self._read(1.0)
        self._text = self._text.partition(text)[2]

    def rest(self) -> tuple[str, int]:
        """What is shown until the process ends, and its exit code."""
        while self._read():
            pass
        return self._text, self.process.wait()

    def _read(self, patience: float = _PATIENCE) -> bool:
        if not select.select([self.descriptor], [], [], patience)[0]:
            return False
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # Linux reports a closed terminal as an error
            return False
        self._text = _CONTROL.sub("", self._text + data.decode(errors="replace"))
        return bool(data)
