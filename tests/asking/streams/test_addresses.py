"""Addresses through FFmpeg: HTTP as a file and as a broadcast that is cut, RTSP, UDP."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import imageio_ffmpeg
import pytest

from framefusion.asking.streams import open_stream
from framefusion.asking.video import VideoError
from tests.asking.media import corpus
from tests.asking.media.test_sources import Quiet
from tests.asking.streams.clips import Hurried, evenly, numbers_of, write

TIMEOUT = 60.0
"""Seconds that nothing here waits for, unless it fails."""


class Server(BaseHTTPRequestHandler):
    """Answers what a test says, in turn."""

    answers: ClassVar[list[Callable[[Server], None]]] = []
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        type(self).asked.append(self.headers.get("Range"))
        answer = self.answers.pop(0) if self.answers else lambda server: server.send_error(404)
        with suppress(ConnectionError):  # who only looks at the headers hangs up
            answer(self)

    def log_message(self, *args: object) -> None:
        pass


def sends(data: bytes, announced: int | None = None, status: int = 200) -> Callable[[Server], None]:
    """An answer of ``data``, after which the connection ends."""

    def answer(server: Server) -> None:
        server.send_response(status)
        server.send_header("Content-Type", "video/mp2t")
        if announced is not None:
            server.send_header("Content-Length", str(announced))
        server.end_headers()
        server.wfile.write(data)

    return answer


@pytest.fixture
def address() -> Iterator[str]:
    Server.answers, Server.asked = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/live.ts"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_broadcast_that_is_cut_in_the_middle_goes_on(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A broadcast has no length. Its first answer only tells that; the second is cut within a packet."""
    first = write(tmp_path / "first.ts", evenly(30)).read_bytes()
    second = write(tmp_path / "second.ts", evenly(20), numbers=range(100, 120)).read_bytes()
    Server.answers += [sends(first), sends(first[: len(first) // 2 + 50]), sends(second)]
    with (
        caplog.at_level(logging.WARNING),
        open_stream(address, fps=10, reconnections=2, buffer=1000, timeout=TIMEOUT, waiting=Hurried()) as stream,
    ):
        frames = list(stream)
    numbers = [corpus.number_of(frame.pixels) for frame in frames if frame.intact]
    before = [number for number in numbers if number < 100]
    assert before == list(range(len(before)))
    assert 5 < len(before) < 30
    assert numbers[len(before) :] == list(range(100, 120))
    times = [frame.timestamp for frame in frames]
    assert all(one < other for one, other in pairwise(times))
    assert times[-1] - times[-20] == pytest.approx(1.9)
    assert stream.status.reconnections == 1
    assert stream.status.seconds_lost == pytest.approx(1.0)
    assert "404" in stream.status.reason
    assert caplog.text.count("frames come again") == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_whose_connection_is_cut_is_read_to_its_end(address: str, tmp_path: Path, ranges: bool) -> None:
    """Its length tells what is missing. Not every server can send a part of a file."""
    data = write(tmp_path / "a.mp4", evenly(30)).read_bytes()
    cut = len(data) // 3
    rest = sends(data[cut:], len(data) - cut, status=206) if ranges else sends(data, len(data))
    Server.answers += [sends(data, len(data)), sends(data[:cut], len(data)), rest]
    with open_stream(address, fps=10, timeout=TIMEOUT) as stream:
        assert numbers_of(stream) == list(range(30))
    assert stream.status.reason == "the file ended"
    assert Server.asked == [None, None, f"bytes={cut}-"]


def test_a_playlist_with_an_end_is_read_as_a_file(tmp_path: Path) -> None:
    corpus.write(tmp_path / "live.m3u8", *corpus.PLAIN, "-f", "hls", "-hls_time", 1, "-hls_list_size", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with open_stream(f"http://127.0.0.1:{server.server_port}/live.m3u8", fps=10) as stream:
            assert numbers_of(stream) == list(range(40))
        assert stream.status.frames_dropped == stream.status.reconnections == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_that_has_nothing(address: str) -> None:
    with open_stream(address, waiting=Hurried()) as stream, pytest.raises(VideoError, match="404"):
        next(stream)
    with open_stream("rtsp://127.0.0.1:9/a", waiting=Hurried()) as stream, pytest.raises(VideoError, match="refused"):
        next(stream)


def test_a_password_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with open_stream("rtsp://me:secret@127.0.0.1:9/a") as stream, pytest.raises(VideoError) as found:
        next(stream)
    assert str(found.value).startswith("rtsp://127.0.0.1:9/a ")
    assert "secret" not in repr(stream) + caplog.text


@pytest.mark.parametrize("given", ["ftp://host/a.mp4", "file:///etc/a", "data:video/mp4;base64,AAAA"])
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(VideoError, match="not an address that can be read; http, https, rtmp, rtmps, rtsp"):
        open_stream(given)


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_rtsp(tmp_path: Path) -> None:
    """FFmpeg can wait for a sender, which here is the ``ffmpeg`` command; packets are those of any RTSP server."""
    path = corpus.write(tmp_path / "a.ts", *corpus.PLAIN)
    address = f"rtsp://127.0.0.1:{free_port(socket.SOCK_STREAM)}/live"
    over = threading.Event()

    def send() -> None:
        words = ("-v", "error", "-nostdin", "-i", path, "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp", address)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), *map(str, words)]
        while subprocess.run(command, capture_output=True, check=False).returncode and not over.is_set():
            over.wait(0.05)  # nobody listens yet

    thread = threading.Thread(target=send)
    thread.start()
    options = {"rtsp_flags": "listen", "listen_timeout": "60"}
    try:
        with open_stream(address, 10, options=options, reconnections=0, buffer=1000, timeout=TIMEOUT) as stream:
            assert numbers_of(stream) == list(range(40))
    finally:
        over.set()
        thread.join()
    assert stream.status.reason == "the connection was lost (it ended)"


def test_udp(tmp_path: Path) -> None:
    """Datagrams come again and again, since nobody says when the receiver is ready."""
    data = corpus.write(tmp_path / "a.ts", *corpus.PLAIN).read_bytes()
    port = free_port(socket.SOCK_DGRAM)
    over = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for begin in range(0, 10**9, 1316):
                begin %= len(data) // 1316 * 1316
                out.sendto(data[begin : begin + 1316], ("127.0.0.1", port))
                if over.wait(0.001):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with open_stream(f"udp://127.0.0.1:{port}", 10, buffer=1000, timeout=TIMEOUT) as stream:
            times = [next(stream).timestamp for _ in range(20)]
    finally:
        over.set()
        thread.join()
    assert times == sorted(set(times))
