"""Which reader shows what a viewer would see: a corpus of files through torchcodec, PyAV and framefusion.

    python -m benchmarks.decoding --json docs/data/decoding.json

The packages beside framefusion are read in the plainest way that their documentation shows. Needs ``imageio-ffmpeg``
(its binary is the judge) and, for its column, ``torchcodec``; a reader that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.asking.media.corpus import ENTRIES, Entry, ffmpeg, truth_of
from tests.asking.media.judge import faults

COUNTS = (8, 3, 10_000)
Reader = Callable[[Path, int], tuple[np.ndarray, np.ndarray]]
"""Frames ``(T, H, W, 3)`` and their times in seconds, for a file and a number of frames."""


def with_torchcodec(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every frame has a start; the reader is asked what is on display at the middle of equal intervals."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC")
    about = decoder.metadata
    if count >= len(decoder):
        batch = decoder.get_frames_in_range(0, len(decoder))
    else:
        begin, end = about.begin_stream_seconds, about.end_stream_seconds
        middles = begin + (np.arange(count) + 0.5) * (end - begin) / count
        batch = decoder.get_frames_played_at(middles.tolist())
    return batch.data.numpy(), batch.pts_seconds.numpy()


def with_pyav(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every frame that ``container.decode`` gives, at its own time."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        times = np.array([frame.time for frame in frames], dtype=float)
        duration = times[-1] - times[0] + 1 / float(container.streams.video[0].average_rate)
        pictures = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4) for frame in frames]
    if count >= len(times):
        return np.stack(pictures), times
    middles = times[0] + (np.arange(count) + 0.5) * duration / count
    chosen = np.searchsorted(times, middles + 1e-6, side="right") - 1
    return np.stack([pictures[position] for position in chosen]), times[chosen]


def with_framefusion(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    from framefusion.asking.video import read_video

    video = read_video(path, frames=count)
    return video.frames, video.timestamps


READERS: dict[str, Reader] = {
    "torchcodec": with_torchcodec,
    "PyAV": with_pyav,
    "framefusion": with_framefusion,
}
PACKAGES = {"torchcodec": "torchcodec", "PyAV": "av", "framefusion": "framefusion"}


def from_file(path: Path) -> Reader:
    """The ``read_video`` of another version of framefusion's ``video.py``."""
    spec = importlib.util.spec_from_file_location("framefusion_other_video", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    def read(video: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
        found = module.read_video(video, frames=count)
        return found.frames, found.timestamps

    return read


def verdict(reader: Reader, entry: Entry, path: Path) -> str:
    """``"right"``, ``"refused"``, or what is wrong."""
    if entry.expected == "refused":
        try:
            reader(path, COUNTS[0])
        except Exception:
            return "right"
        return "frames"
    truth = truth_of(entry, path)
    found: set[str] = set()
    for count in COUNTS if entry.expected == "right" else COUNTS[:1]:
        try:
            frames, times = reader(path, count)
        except Exception as error:
            return f"refused ({type(error).__name__})"
        if entry.expected == "right":
            found |= faults(truth, count, frames, times, entry.tolerance)
    return ", ".join(sorted(found)) or "right"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table here")
    parser.add_argument("--also", metavar="NAME=FILE", help="another version of video.py, read from a file")
    parser.add_argument("--only", nargs="*", help="names of files")
    arguments = parser.parse_args()
    readers = {name: reader for name, reader in READERS.items() if importlib.util.find_spec(PACKAGES[name])}
    versions = {name: version(PACKAGES[name]) for name in readers}
    if "torchcodec" in readers:
        from torchcodec._core.ops import ffmpeg_major_version

        versions["torchcodec"] += f" with FFmpeg {ffmpeg_major_version}"
    if arguments.also:
        name, _, file = arguments.also.partition("=")
        readers[name], versions[name] = from_file(Path(file)), ""
    rows = {}
    with tempfile.TemporaryDirectory() as directory:
        for entry in ENTRIES:
            if arguments.only and entry.name not in arguments.only:
                continue
            path = entry.make(Path(directory))
            rows[entry.name] = {name: verdict(reader, entry, path) for name, reader in readers.items()}
            print(f"{entry.name:26}", *(f"{name}: {what:24}" for name, what in rows[entry.name].items()))
    for name in readers:
        print(f"{name}: {sum(row[name] == 'right' for row in rows.values())} of {len(rows)} right")
    if arguments.json:
        judge = ffmpeg("-version").stdout.decode().split()[2].split("-")[0]
        record = {"versions": {**versions, "ffmpeg": judge}, "files": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
