"""Camera devices: which device of FFmpeg opens one, and what is missing if there is none."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import av

from framefusion.asking.decoding.errors import VideoError

PREFIX = "camera:"
_DEVICES = Path("/dev")
_VIDEO = re.compile(r"/dev/video\d+")


@dataclass(frozen=True)
class Camera:
    """What FFmpeg opens.

    Attributes:
        name: what messages call it.
        location: of the device.
        format: FFmpeg's name for devices of this system.
    """

    name: str
    location: str
    format: str


def is_camera(given: str) -> bool:
    """Whether a source is a camera: ``camera:NUMBER``, ``camera:NAME``, or a device of Video4Linux."""
    if given.startswith(PREFIX):
        return True
    try:
        return _VIDEO.fullmatch(os.path.realpath(given)) is not None
    except ValueError:  # a NUL byte
        return False


def camera_of(given: str) -> Camera:
    """What to open for ``camera:…`` or ``/dev/video…``.

    Raises:
        VideoError: no such camera, it may not be opened, or this FFmpeg or system has no way to cameras.
    """
    which = given.removeprefix(PREFIX)
    if not which:
        raise VideoError("camera: needs a number or a name behind the colon, such as camera:0")
    if sys.platform.startswith("linux"):
        camera = Camera(given, f"/dev/video{which}" if which.isdecimal() else which, "v4l2")
        _check_device(camera)
    elif sys.platform == "darwin":
        camera = Camera(given, f"{which}:none", "avfoundation")
    elif sys.platform == "win32":
        if which.isdecimal():
            raise VideoError(f"{given}: on Windows a camera has a name, such as camera:Integrated Camera")
        camera = Camera(given, f"video={which}", "dshow")
    else:
        raise VideoError(f"{given}: cameras of {sys.platform} cannot be read; name an address or a file")
    if not any(camera.format in name.split(",") for name in av.formats_available):
        raise VideoError(f"{given}: the FFmpeg of PyAV was built without {camera.format}, which reads cameras")
    return camera


def _check_device(camera: Camera) -> None:
    if not os.path.exists(camera.location):
        there = sorted(str(path) for path in _DEVICES.glob("video[0-9]*"))
        raise VideoError(
            f"no camera {camera.location}; "
            + (f"there is {', '.join(there)}" if there else "this machine has none, or its driver is not loaded")
        )
    if not os.access(camera.location, os.R_OK | os.W_OK):
        raise VideoError(f"{camera.location} may not be opened; its users are in the group video")
