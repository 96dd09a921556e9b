"""Pictures through Pillow: photographs, animations that FFmpeg does not time or does not know, folders of frames."""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.pictures import Fit, Pictures
from framefusion.asking.decoding.pixels import on_white
from framefusion.asking.decoding.source import Source
from framefusion.asking.decoding.timeline import Timeline

logger = logging.getLogger(__name__)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Kinds of files that are taken for pictures, by their first bytes."""

ENDINGS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Names of pictures in a folder."""

_STREAMS = (".mjpeg", ".mjpg")  # pictures one behind the other; each looks like a photograph from its first bytes
_MOVING = ("GIF", "PNG", "WEBP")
_HEIF = re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)
_SHORTEST, _USUAL = 0.02, 0.1
"""Seconds: browsers show a picture that asks for less than the first for the second."""

_BROKEN = (OSError, EOFError, ValueError, SyntaxError, IndexError, KeyError, TypeError, OverflowError, struct.error)
"""What Pillow raises about damaged files."""

Choose = Callable[[Timeline], list[int]]
"""Positions of the frames that are wanted of a timeline."""

FitCount = Callable[[int], Fit | None]
"""From the number of frames that are wanted to what resizes them."""

Draw = Callable[[], np.ndarray]
"""Makes a picture, uint8 ``(H, W, 3)``."""


def is_picture(source: Source) -> bool:
    """Whether a local file is a picture, moving or not.

    Raises:
        VideoError: a photograph of a kind that cannot be read here.
    """
    if source.remote or os.path.isdir(source.location) or source.location.lower().endswith(_STREAMS):
        return False
    with open(source.location, "rb") as file:
        if _HEIF.match(file.read(12)):
            raise VideoError(f"{source.name} is an HEIF photograph, which cannot be read here; save it as JPEG")
    try:
        with _open(source.location):
            return True
    except Image.DecompressionBombError as error:
        raise VideoError(f"{source.name} is too large a picture ({error})") from error
    except _BROKEN:
        return False


def is_moving_picture(source: Source) -> bool:
    """Whether a local file is a GIF, PNG or WebP of several pictures."""
    if not is_picture(source):
        return False
    with _open(source.location) as image:
        try:
            return image.format in _MOVING and getattr(image, "n_frames", 1) > 1
        except _BROKEN:
            return False


def read_picture(source: Source) -> Image.Image:
    """An upright RGB picture on white, 8 bits a channel.

    Raises:
        VideoError: the file is damaged, or no picture.
    """
    try:
        with _open(source.location) as image:
            return upright_rgb(image)
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise VideoError(f"{source.name} is not a picture that can be read ({_said(error)})") from error


def read_moving_picture(source: Source, choose: Choose, fit: FitCount) -> tuple[np.ndarray, Timeline, list[int]]:
    """Pictures of an animation, its timeline, and the positions that ``choose`` took of it.

    Pictures are ``(T, H, W, 3)``, one for each different position, ascending.

    Raises:
        VideoError: the file is damaged before its second picture, or the pictures take too much memory.
    """
    seconds: list[float] = []
    whole = True
    with _open(source.location) as image:
        try:
            for shown in _frames(image):
                seconds.append(_seconds(shown))  # noqa: PERF401 - those before a damaged one stay
        except _BROKEN:
            whole = False
        if not seconds:
            raise VideoError(f"{source.name} contains no picture that can be decoded")
        starts = np.concatenate([[0.0], np.cumsum(seconds)])
        expected = getattr(image, "n_frames", len(seconds))
        announced = starts[-1] if whole else starts[-1] * max(expected, len(seconds) + 1) / len(seconds)
        timeline = Timeline(starts[:-1], float(starts[-1]), float(announced), np.ones(len(seconds), bool))
        wanted = choose(timeline)
    needed = set(wanted)
    pictures = Pictures(len(needed), fit(len(wanted)))
    with _open(source.location) as image:
        for position, shown in zip(range(wanted[-1] + 1), _frames(image), strict=False):
            if position in needed:
                pictures.add(np.asarray(upright_rgb(shown)))
    return pictures.array(), timeline, wanted


def pictures_of_animation(source: Source) -> Iterator[tuple[float, Draw]]:
    """When each picture of an animation is shown, in seconds, and what draws it until the next is asked for.

    Ends with a warning where the file is damaged.
    """
    time, count = 0.0, 0
    with _open(source.location) as image:
        try:
            for shown in _frames(image):
                yield time, partial(_drawn, shown)
                time, count = time + _seconds(shown), count + 1
        except _BROKEN as error:
            logger.warning("%s: it cannot be read on after %d pictures (%s)", source.name, count, _said(error))


def pictures_of_folder(source: Source) -> Iterator[tuple[float, Draw]]:
    """One picture a second, each with what draws it, in the order of :func:`read_folder`.

    Raises:
        VideoError: the folder holds no pictures.
    """
    for position, name in enumerate(_names(source)):
        yield float(position), partial(_drawn_in, source, name)


def _drawn_in(folder: Source, name: str) -> np.ndarray:
    return np.asarray(_picture_in(folder, name))


def read_folder(source: Source, choose: Choose, fit: FitCount) -> tuple[np.ndarray, Timeline, list[int]]:
    """The pictures of a folder as a video of one a second, in the order of their names, numbers by their value.

    Returns what :func:`read_moving_picture` does.

    Raises:
        VideoError: the folder holds no pictures, one of those wanted cannot be read, or they take too much memory.
    """
    names = _names(source)
    count = len(names)
    timeline = Timeline(np.arange(count, dtype=float), float(count), 0.0, np.ones(count, bool))
    wanted = choose(timeline)
    size = _picture_in(source, names[0]).size
    pictures = Pictures(len(wanted), fit(len(wanted)))
    for position in wanted:
        pictures.add(np.asarray(_fitted(_picture_in(source, names[position]), size)))
    return pictures.array(), timeline, wanted


def _names(source: Source) -> list[str]:
    names = sorted((entry.name for entry in os.scandir(source.location) if _is_frame(entry)), key=_by_number)
    if not names:
        raise VideoError(f"{source.name} is a directory without pictures; name a video, or a folder of frames")
    return names


def _picture_in(source: Source, name: str) -> Image.Image:
    return read_picture(Source(str(Path(source.name, name)), str(Path(source.location, name))))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts ``frame9.jpg`` before ``frame10.jpg``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name.lower())]


def _is_frame(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(ENDINGS) and not entry.name.startswith(".") and entry.is_file()


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _open(location: str) -> Any:
    Image.init()
    return Image.open(location, formats=[name for name in FORMATS if name in Image.OPEN])


def _seconds(shown: Any) -> float:
    """How long the present picture of an animation stays."""
    duration = float(shown.info.get("duration") or 0) / 1000
    return duration if duration >= _SHORTEST else _USUAL


def _drawn(shown: Any) -> np.ndarray:
    return np.asarray(upright_rgb(shown))


def _frames(image: Any) -> Iterator[Any]:
    """Every picture of an animation; one that only stands for it where animations are not shown is left out."""
    first = 1 if getattr(image, "default_image", False) else 0
    for position in range(first, getattr(image, "n_frames", 1)):
        image.seek(position)
        image.load()
        yield image


def upright_rgb(image: Any) -> Image.Image:
    """A picture of any mode as RGB, 8 bits a channel, on white and turned as its EXIF orientation says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # 16 bits a channel, which Pillow would cut off instead of scaling
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        return Image.fromarray(on_white(np.asarray(image.convert("RGBA"))))
    return image.convert("RGB")


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
