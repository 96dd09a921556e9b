"""Cameras, none of which is at hand here: what is opened, and what is said of what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from framefusion.asking.streams import cameras, connections, open_stream
from framefusion.asking.streams.cameras import Camera, camera_of, is_camera
from framefusion.asking.video import VideoError
from tests.asking.streams.clips import Hurried, evenly, numbers_of, write


def on(monkeypatch: pytest.MonkeyPatch, platform: str, formats: set[str]) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(cameras.av, "formats_available", formats)


def test_what_is_a_camera(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to("/dev/video97")
    assert all(map(is_camera, ("/dev/video0", "camera:0", "camera:Front", str(link))))
    assert not any(map(is_camera, ("video0", "/dev/null", "a.mp4", "rtsp://host/camera:0")))


@pytest.mark.parametrize(
    ("given", "platform", "expected"),
    [
        ("camera:1", "darwin", Camera("camera:1", "1:none", "avfoundation")),
        ("camera:FaceTime HD", "darwin", Camera("camera:FaceTime HD", "FaceTime HD:none", "avfoundation")),
        ("camera:Integrated Camera", "win32", Camera("camera:Integrated Camera", "video=Integrated Camera", "dshow")),
    ],
)
def test_what_is_opened(given: str, platform: str, expected: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, platform, {"avfoundation", "dshow"})
    assert camera_of(given) == expected


def test_a_device_of_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "linux", {"video4linux2,v4l2"})
    device = tmp_path / "video3"
    device.touch()
    assert camera_of(f"camera:{device}") == Camera(f"camera:{device}", str(device), "v4l2")
    monkeypatch.setattr(cameras, "_DEVICES", tmp_path)
    with pytest.raises(VideoError, match=rf"no camera /dev/video97; there is {device}"):
        camera_of("camera:97")
    monkeypatch.setattr(cameras.os, "access", lambda *_: False)
    with pytest.raises(VideoError, match="may not be opened; its users are in the group video"):
        camera_of(f"camera:{device}")


@pytest.mark.parametrize(
    ("given", "platform", "reason"),
    [
        ("camera:", "linux", "needs a number or a name behind the colon"),
        ("camera:97", "linux", "no camera /dev/video97; this machine has none"),
        ("/dev/video97", "linux", "no camera /dev/video97"),
        ("camera:0", "win32", "on Windows a camera has a name"),
        ("camera:0", "plan9", "cameras of plan9 cannot be read"),
        ("camera:0", "darwin", "was built without avfoundation"),
    ],
)
def test_what_is_missing(
    given: str, platform: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, platform, {"video4linux2,v4l2"})
    monkeypatch.setattr(cameras, "_DEVICES", tmp_path)
    with pytest.raises(VideoError, match=reason):
        open_stream(given)


def test_a_camera_is_read_as_a_live_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands in for the device; its format and the options go to FFmpeg."""
    path = write(tmp_path / "a.mkv", evenly(20))
    asked: list[Any] = []
    real = connections.opened

    def opened(source: Any, threads: str, **how: Any) -> Any:
        asked.append(how)
        return real(source, threads, **{**how, "format": None})

    monkeypatch.setattr(connections, "opened", opened)
    monkeypatch.setattr(connections, "camera_of", lambda given: Camera(given, str(path), "v4l2"))
    size = {"video_size": "640x480"}
    with open_stream("camera:0", 10, options=size, buffer=100, timeout=7, waiting=Hurried()) as stream:
        assert numbers_of(stream) == list(range(20))
    assert asked == [{"endless": True, "format": "v4l2", "options": size, "timeout": (20.0, 7)}]
