"""Frames at the size that a processor makes of them: what it gains, and what FFmpeg's scaler would change.

    python -m benchmarks.decoding_size times memory pixels answers drawing --json docs/data/decoding-size.json

All ways use the package's reader, in turns in one process: one that keeps frames at their own size and leaves scaling
to the processor; the package's, which gives each frame, as it is decoded, the size that the processor would make, by
the processor's own resizing; and one whose conversion to RGB by FFmpeg also scales. ``times`` measures CPU seconds of
public clips, see :data:`framefusion.evaluation.footage.CLIPS`, and of one of them encoded at 1920 × 1080, and played
eight times over. ``memory`` measures the largest memory of processes that read and process one of them, at several
sizes. ``pixels`` compares what the processors make of frames that FFmpeg scaled, for several filters. ``answers`` asks
the bundled models about VideoNeedle, stored at four times its size. ``drawing`` measures the first way alone: what
turning decoded frames into RGB takes with filters that stay, and with filters that are made anew for each frame. A
measurement that is not named stays in the file as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch
from PIL import Image

from benchmarks.end_to_end import machine
from framefusion import FrameFusion, session
from framefusion.asking.decoding import frames as reading
from framefusion.asking.decoding import pixels
from framefusion.asking.fitting import Fitting
from framefusion.asking.loading import load
from framefusion.asking.video import Video, read_video
from framefusion.assets import BUNDLED, usual_frames
from framefusion.evaluation.footage import CLIPS
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.videoneedle import SECONDS, VideoNeedle
from tests.asking.media.anew import Anew
from training.video_files import write_mp4

COUNTS = {"Qwen2.5-VL": (32, 64), "LLaVA-OneVision": (32,), "bundled": (32,)}
"""Frames of a clip, of each processor that is timed."""
NAMES = ("pedestrians", "bikes", "bunny", "city")
LARGE, LARGE_SIZE = "bunny", (1920, 1080)
"""The clip that is also encoded at another size, and that size."""
LONG, OVER = "bunny", 8
"""The clip that is also played so many times over."""
NEAREST = "exact, Catmull-Rom"
FILTERS = {
    "as the reader's": "bicubic",
    NEAREST: "bicubic+accurate_rnd+full_chroma_inp+full_chroma_int:param0=0:param1=0.5",
    "area": "area+accurate_rnd+full_chroma_inp+full_chroma_int",
}
"""Flags of FFmpeg's scaler. Its bicubic filter widens with the scale, as an antialiased one does; the second has the
parameter of torchvision's cubic, and FFmpeg's most exact arithmetic."""
DRAWN = {"1280×720": (1280, 720), "1920×1080": LARGE_SIZE, "3840×2160": (3840, 2160)}
"""Sizes whose drawing is measured."""
QUARTER: pixels.Matrix = (0.0, 1.0, -1.0, 0.0)
"""The display matrix of a telephone that was held upright."""
UPSCALED, CRF = 4, 18
"""How VideoNeedle is stored: frames scaled so many times, and the quality of its H.264."""
VIDEOS, SEED = 24, 0
ALL_TOKENS, REDUCED = "all tokens", "cost=0.3"
SETTINGS = {ALL_TOKENS: FrameFusion(keep=1.0), REDUCED: FrameFusion()}
HELD = {"Qwen2.5-VL": (32, 64), "LLaVA-OneVision": (32, 64)}
"""Frames of which the memory is measured."""
Size = tuple[int, int]
"""Height and width."""


class Bare:
    """A processor of a model without a tokenizer, around a video processor."""

    def __init__(self, video_processor: Any) -> None:
        self.video_processor = video_processor

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        """The kinds of the parts."""
        return " ".join(part["type"] for part in turns[0]["content"])

    def __call__(self, text: Any, videos: Any, videos_kwargs: Any = None, **options: Any) -> Any:
        """What the video processor makes."""
        del text
        return self.video_processor(videos, **options, **(videos_kwargs or {}))


@dataclass(frozen=True)
class Processor:
    """A video processor."""

    name: str
    own: Any

    def __call__(self, video: Video, **options: Any) -> torch.Tensor:
        """What a model is given as pixels, as the package asks for it."""
        made = self.own(videos=[video.frames], do_sample_frames=False, return_tensors="pt", **options)
        return made["pixel_values_videos"]

    @cached_property
    def fitting(self) -> Fitting:
        """What the package asks for its size."""
        return Fitting(Bare(self.own))

    def size(self, video: Video) -> Size:
        """Of the frames that its resizing makes."""
        found: list[Size] = []
        resize = type(self.own).resize

        def noted(*arguments: Any, **options: Any) -> torch.Tensor:
            made = resize(self.own, *arguments, **options)
            found.append((made.shape[-2], made.shape[-1]))
            return made

        with mock.patch.object(self.own, "resize", noted):
            self(video)
        return found[0]


@cache
def processors() -> tuple[Processor, ...]:
    """Those of released models with their default sizes, and of the bundled ones."""
    from transformers import LlavaOnevisionVideoProcessor, Qwen2VLVideoProcessor

    return (
        Processor("Qwen2.5-VL", Qwen2VLVideoProcessor(cap_pixels_per_frame=False)),
        Processor("LLaVA-OneVision", LlavaOnevisionVideoProcessor()),
        *(Processor(name, load(name, device="cpu").processor.video_processor) for name in BUNDLED),
    )


def read(path: Path, count: int, size: Size | None = None, flags: str | None = None) -> Video:
    """Some frames of a file, scaled to a size if one is given, by the usual filter of FFmpeg's if no other is given."""
    with ExitStack() as stack:
        if size is not None:
            stack.enter_context(mock.patch.object(reading, "shown_size", return_value=size[::-1]))
        if flags is not None:
            stack.enter_context(mock.patch.object(pixels, "SCALER", flags))
        return read_video(path, frames=count)


def looped(path: Path, times: int, into: Path) -> None:
    """Write a clip several times over, without encoding it again."""
    with av.open(str(into), "w") as out:
        stream: Any = None
        for turn in range(times):
            with av.open(str(path)) as container:
                own = container.streams.video[0]
                stream = out.add_stream_from_template(own) if stream is None else stream
                assert own.duration is not None
                for packet in container.demux(own):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.dts, packet.pts = packet.dts + turn * own.duration, packet.pts + turn * own.duration
                    packet.stream = stream
                    out.mux(packet)


def scaled_up(folder: Path, size: Size, count: int = 10_000) -> Path:
    """Frames of the large clip, encoded at a width and height."""
    whole = read_video(CLIPS[LARGE].path(), frames=count)
    path = folder / f"{LARGE}-{size[0]}.mp4"
    scaled = (np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in whole.frames)
    write_mp4(path, scaled, round(whole.source_fps), crf=CRF)
    return path


def clips(folder: Path) -> Iterator[tuple[str, Path]]:
    """The clips by name."""
    for name in NAMES:
        yield name, CLIPS[name].path()
    yield f"{LARGE}, scaled up", scaled_up(folder, LARGE_SIZE)
    longer = folder / f"{LONG}-{OVER}.mp4"
    looped(CLIPS[LONG].path(), OVER, longer)
    yield f"{LONG}, {OVER} times over", longer


def _seconds(call: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    begin = time.process_time()
    made = call(*arguments, **options)
    return time.process_time() - begin, made


def turn(path: Path, count: int, size: Size, processor: Processor) -> dict[str, float]:
    """CPU seconds of the parts of all ways, once."""
    decoding, whole = _seconds(read, path, count)
    processing, expected = _seconds(processor, whole)
    fitting, fitted = _seconds(read_video, path, frames=count, fit=processor.fitting)
    processing_fitted, made = _seconds(processor, fitted, do_resize=False)
    assert torch.equal(made, expected)
    direct, small = _seconds(read, path, count, size)
    nearest, _ = _seconds(read, path, count, size, FILTERS[NEAREST])
    normalising, _ = _seconds(processor, small, do_resize=False)
    return {
        "decoding": decoding,
        "processor": processing,
        "decoding, the processor's resizing": fitting,
        "processor, the same": processing_fitted,
        "decoding at the size": direct,
        "decoding at the size, nearest": nearest,
        "processor at the size": normalising,
    }


def factor(turns: list[dict[str, float]], decoding: str, processing: str = "processor at the size") -> float:
    """Of frames at their own size and another way, median over the rounds."""
    usual = [one["decoding"] + one["processor"] for one in turns]
    other = [one[decoding] + one[processing] for one in turns]
    return statistics.median(a / b for a, b in zip(usual, other, strict=True))


def times(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Medians over the rounds of the parts of all ways, and of the factors between them in the same round."""
    rows = []
    for name, path in clips(folder):
        for processor in processors():
            for count in COUNTS.get(processor.name, ()):
                video = read(path, count)
                size = processor.size(video)
                # the first one is a warm-up
                turns = [turn(path, count, size, processor) for _ in range(rounds + 1)][1:]
                rows.append(
                    {
                        "clip": name,
                        "size": [video.height, video.width],
                        "frames": len(video),
                        "of": video.total_frames,
                        "processor": processor.name,
                        "scaled to": list(size),
                        "seconds": {part: statistics.median(one[part] for one in turns) for part in turns[0]},
                        "factor": factor(turns, "decoding, the processor's resizing", "processor, the same"),
                        "factor of the reader's filter": factor(turns, "decoding at the size"),
                        "factor of the nearest": factor(turns, "decoding at the size, nearest"),
                    }
                )
                say(rows[-1])
    return rows


def memory(folder: Path) -> list[dict[str, Any]]:
    """Largest memory of new processes, beyond what they took before they read."""
    rows = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for title, size in DRAWN.items():
            path = scaled_up(folder, size, 64)
            for name, counts in HELD.items():
                for count in counts:
                    peaks = [pool.submit(_peak, path, count, name, fitted).result() for fitted in (False, True)]
                    rows.append({"size": title, "frames": count, "processor": name, "MiB": peaks})
                    say(rows[-1])
    return rows


def _peak(path: Path, count: int, name: str, fitted: bool) -> int:
    """MiB more at the most."""
    torch.set_num_threads(1)
    (processor,) = (own for own in processors() if own.name == name)
    if fitted:
        processor.fitting(2, 90, 160)
    # What a process took before it was this one counts as well, unless it is told not to.
    Path("/proc/self/clear_refs").write_text("5")
    before = _most()
    made = read_video(path, frames=count, fit=processor.fitting if fitted else None)
    processor(made, **({"do_resize": False} if fitted else {}))
    return round((_most() - before) / 1024)


def _most() -> int:
    """KiB that this process has taken at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def differences(folder: Path, count: int = 32) -> list[dict[str, Any]]:
    """Grey levels between what the processors make of frames and of frames that were scaled by the decoder."""
    plain = {"do_rescale": False, "do_normalize": False}
    rows = []
    for name, path in clips(folder):
        video = read(path, count)
        for processor in processors():
            size, exact = processor.size(video), processor(video, **plain).short()
            for title, flags in FILTERS.items():
                small = read(path, count, size, flags)
                scaled = processor(small, do_resize=False, **plain).short()
                apart = (scaled - exact).abs()
                rows.append(
                    {
                        "clip": name,
                        "processor": processor.name,
                        "scaled to": list(size),
                        "filter": title,
                        "mean": apart.float().mean().item(),
                        "beyond 8 levels": (apart > 8).float().mean().item(),
                        "max": int(apart.max()),
                    }
                )
                say(rows[-1])
    return rows


def answers(folder: Path) -> list[dict[str, Any]]:
    """How many answers about VideoNeedle, stored at a larger size, are right and how many change."""
    rows = []
    for name in BUNDLED:
        loaded, frames = load(name, device="cpu"), usual_frames(name)
        processor, data = Processor(name, loaded.processor.video_processor), VideoNeedle(VIDEOS, SEED)
        asked = defaultdict(list)
        for question in data.questions(frames):
            asked[question.video].append(question)
        ways = {"usual": None, **FILTERS}
        said: dict[tuple[str, str], list[str]] = defaultdict(list)
        for video, questions in asked.items():
            path, drawn = folder / f"{video}.mp4", data.video(video, frames, frames)
            larger = (drawn.width * UPSCALED, drawn.height * UPSCALED)
            stored = (np.asarray(Image.fromarray(f).resize(larger, Image.Resampling.BICUBIC)) for f in drawn.frames)
            write_mp4(path, stored, round(frames / SECONDS), crf=CRF)
            whole = read(path, frames)
            size = processor.size(whole)
            for way, flags in ways.items():
                shown = whole if flags is None else read(path, frames, size, flags)
                for plan, settings in SETTINGS.items():
                    with session(loaded.model, loaded.processor, settings, chunk=frames, max_new_tokens=16) as talk:
                        talk.add(shown)
                        replies = talk.ask_all([question.text for question in questions])
                    said[way, plan] += [reply.text for reply in replies]
        right = [question.answer or "" for questions in asked.values() for question in questions]
        for (way, plan), texts in said.items():
            rows.append(
                {
                    "model": name,
                    "plan": plan,
                    "filter": way,
                    "questions": len(right),
                    "right": sum(map(exact_match, texts, right)),
                    "changed": sum(a != b for a, b in zip(texts, said["usual", plan], strict=True)),
                }
            )
            say(rows[-1])
    return rows


class Nothing:
    """Gives one blank picture for every frame: what reading takes without drawing."""

    def __init__(self, stream: Any) -> None:
        del stream
        self.blank: np.ndarray | None = None

    def picture(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        del frame
        if self.blank is None:
            self.blank = np.zeros((size[1], size[0], 3), np.uint8)
        return self.blank


def drawing(folder: Path, rounds: int, count: int = 32) -> list[dict[str, Any]]:
    """Seconds of reading by the CPU and by the clock, medians over the rounds: drawing nothing, and drawing both ways.

    The order changes from round to round, because memory that a way leaves is cheaper for the next.
    """
    ways = {"nothing": Nothing, "drawn": pixels.Painter, "drawn anew": Anew}
    names, rows = list(ways), []
    for title, size in DRAWN.items():
        path = scaled_up(folder, size, 2 * count)
        for turned in (False, True):
            taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
            # the first one is a warm-up
            for turn in range(rounds + 1):
                for name in (*names[turn % 3 :], *names[: turn % 3]):
                    with ExitStack() as stack:
                        matrix = QUARTER if turned else None
                        stack.enter_context(mock.patch.object(pixels, "display_matrix", return_value=matrix))
                        stack.enter_context(mock.patch.object(reading, "Painter", ways[name]))
                        taken[name].append(_both_seconds(read, path, count))
            parts = {name: np.median(pairs[1:], axis=0).tolist() for name, pairs in taken.items()}
            rows.append({"size": title, "turned": turned, "frames": count, "seconds (CPU, wall)": parts})
            say(rows[-1])
    return rows


def _both_seconds(call: Any, *arguments: Any) -> tuple[float, float]:
    begin = time.perf_counter()
    cpu, made = _seconds(call, *arguments)
    del made
    return cpu, time.perf_counter() - begin


def say(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["times", "memory", "pixels", "answers", "drawing"])
    parser.add_argument("--rounds", type=int, default=3, help="times and drawing: after a warm-up")
    parser.add_argument("--json", type=Path, help="write the results here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(given.json.read_text(encoding="utf-8")) if given.json and given.json.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for what in given.what:
            if what == "times":
                rows = times(Path(folder), given.rounds)
            elif what == "memory":
                rows = memory(Path(folder))
            elif what == "drawing":
                rows = drawing(Path(folder), given.rounds)
            else:
                rows = differences(Path(folder)) if what == "pixels" else answers(Path(folder))
            found[what] = {**machine(), "rows": rows}
            if given.json is not None:
                given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
