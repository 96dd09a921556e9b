"""vLLM's OpenAI-compatible server in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 240


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer of one request."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def ask(self, question: str, *videos: bytes, tokens: int = 8, **more: Any) -> tuple[int, dict[str, Any]]:
        """A chat of one turn about some mp4 files."""
        encoded = [base64.b64encode(video).decode() for video in videos]
        parts = [{"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{video}"}} for video in encoded]
        content = [*parts, {"type": "text", "text": question}]
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": tokens}
        return self.post("/v1/chat/completions", body | more)

    def resident_bytes(self) -> int:
        """Memory of the server and all processes below it."""
        pids, total = [self.process.pid], 0
        for pid in pids:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    pids += map(int, (thread / "children").read_text().split())
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total


@contextlib.contextmanager
def running(directory: Path, model: Path, options: Sequence[str]) -> Iterator[Server]:
    """Start a server, wait until it is ready, and end it.

    Args:
        directory: for its log.
        model: the checkpoint.
        options: of its command line.

    Raises:
        RuntimeError: it ended before it was ready; with the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model", *options]
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(server.url + "/health", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server:\n{log.read_text(errors='replace')[-6000:]}")
            time.sleep(0.5)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
