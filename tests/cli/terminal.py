"""The command on a pseudo-terminal, with somebody at the keys."""

from __future__ import annotations

import os
import re
import select
import signal
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

        def take_terminal() -> None:
            """So that Ctrl-C is a signal to it, also where the tests themselves run in the background, deaf to it."""
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "framefusion", *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=directory,
            start_new_session=True,
            preexec_fn=take_terminal,
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

    def idle(self) -> None:
        """Wait until the process waits for keys: a signal that comes while readline takes one waits for the next."""
        deadline, before = time.monotonic() + _PATIENCE, -1
        while True:
            assert time.monotonic() < deadline, "the process does not come to rest"
            # What follows the name in brackets: state, …, and the clock ticks of user and system.
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            spent = int(fields[11]) + int(fields[12])
            if fields[0] == "S" and spent == before:
                return
            before = spent
            time.sleep(0.2)

    def rest(self) -> tuple[str, int]:
        """What is shown until the process ends, and its exit code."""
        while self._read():
            pass
        return self._text, self.process.wait()

    def _read(self) -> bool:
        if not select.select([self.descriptor], [], [], _PATIENCE)[0]:
            return False
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # Linux reports a closed terminal as an error
            return False
        self._text = _CONTROL.sub("", self._text + data.decode(errors="replace"))
        return bool(data)
