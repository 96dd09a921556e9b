"""Where media may come from, and what is said of what cannot be read."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.decoding.source import check_source
from framefusion.asking.media import read_media
from framefusion.asking.video import VideoError, read_video
from tests.asking.media import corpus


class Quiet(SimpleHTTPRequestHandler):
    """Python's own file server, which like many others cannot send a part of a file."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    corpus.write(folder / "clip.mp4", *corpus.PLAIN)
    corpus.write(folder / "clip.mkv", *corpus.PLAIN)
    corpus.write(folder / "live.m3u8", *corpus.PLAIN, "-f", "hls", "-hls_time", 1, "-hls_list_size", 0)
    Image.fromarray(corpus.picture(5)).save(folder / "photo.png")
    Image.fromarray(corpus.picture(6)).save(folder / "größer als.png")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "live.m3u8"])
def test_an_address_gives_what_the_file_gives(folder: Path, address: str, name: str) -> None:
    there, here = read_video(f"{address}/{name}", frames=4), read_media(folder / name, frames=4)
    np.testing.assert_array_equal(there.frames, here.frames)
    assert there.timestamps.tolist() == here.timestamps.tolist()
    assert there.path.name == name


def test_a_photograph_at_an_address(folder: Path, address: str) -> None:
    for name, number in (("photo.png?size=large", 5), ("größer als.png", 6)):
        np.testing.assert_array_equal(np.asarray(read_media(f"{address}/{name}")), corpus.picture(number))


def test_what_an_address_does_not_have(address: str) -> None:
    for name in ("gone.mp4", "gone.png"):
        with pytest.raises(VideoError, match=rf"127\.0\.0\.1.*{name}.*(404|not found)"):
            read_media(f"{address}/{name}")
    with pytest.raises(VideoError, match="refused"):
        read_media("http://127.0.0.1:9/clip.mp4")


@pytest.mark.parametrize("given", ["ftp://host/a.mp4", "rtsp://host/a", "data:video/mp4;base64,AAAA", "file:///etc/a"])
def test_other_addresses_are_refused_before_anything_is_opened(given: str) -> None:
    for read in (check_source, read_video, read_media):
        with pytest.raises(VideoError, match="not an address that can be read; http and https are"):
            read(given)


@pytest.mark.parametrize("name", ["clip.mkv", "photo.png"])
def test_standard_input(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / name).open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        piped = read_media("-", frames=4)
    direct = read_media(folder / name, frames=4)
    np.testing.assert_array_equal(*(np.asarray(getattr(media, "frames", media)) for media in (piped, direct)))


def test_standard_input_without_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(VideoError, match="standard input is empty"):
        read_media("-")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(VideoError, match="standard input is a terminal"):
        read_media("-")


def test_paths_that_name_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "empty.mp4").touch()
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for given, reason in (
        (tmp_path / "gone.mp4", r"no such file: .*gone\.mp4"),
        (tmp_path / ("n" * 300 + ".mp4"), "cannot be opened .*name too long"),
        ("what happens here? " * 40, "cannot be opened .*name too long"),
        (f"{tmp_path}/a\0.mp4", r"a\\x00\.mp4 cannot be opened"),
        (tmp_path / "a.mp4" / "b.mp4", "cannot be opened .*not a directory"),
        (tmp_path / "loop", "cannot be opened .*symbolic links"),
        (tmp_path / "empty.mp4", "is empty"),
        ("", "no such file"),
    ):
        for read in (check_source, read_video, read_media):
            with pytest.raises(VideoError, match=reason) as found:
                read(given)
            assert len(str(found.value)) < 400


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "a.mp4").chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(VideoError, match="permission denied"):
            check_source(tmp_path / "a.mp4")
    finally:
        os.seteuid(user)


def test_a_turn_in_the_middle_of_a_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another display matrix, such as that of a telephone that is turned while it films: one size for all."""
    from framefusion.asking.decoding import pixels

    video = read_video(folder / "clip.mp4", 4)
    still, begins = video.frames, float(video.timestamps[2]) - 1e-3

    def changing(frame: Any) -> Any:
        return (0.0, 1.0, -1.0, 0.0) if frame.time >= begins else None

    monkeypatch.setattr(pixels, "display_matrix", changing)
    turned = read_video(folder / "clip.mp4", 4).frames
    assert turned.shape == still.shape
    assert np.array_equal(turned[:2], still[:2])
    # Scaled to the size of the first frame, and turned.
    quarter = np.stack([np.asarray(Image.fromarray(f).resize(still.shape[1:3])) for f in still[2:]])
    expected = quarter.swapaxes(1, 2)[:, :, ::-1]
    assert np.abs(turned[2:].astype(int) - expected).mean() < 3
