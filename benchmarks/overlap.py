"""Videos a minute with and without decoding ahead and at the processor's size, and the memory of a vision tower.

    python -m benchmarks.overlap videos
    python -m benchmarks.overlap videos --clip bunny --frames 32
    python -m benchmarks.overlap tower

``videos`` answers a question about each of several copies of the bundled real clip, or of a public one, as
``framefusion batch`` does, in turns in one process: one video after the other with frames of their own size, the next
one decoded ahead, and frames read at the size that the processor makes of them as well. The model has one thread, which
leaves a second core.
``tower`` measures the largest memory of processes that show 256 frames to a Qwen2.5-VL with random weights, the whole
video at once and a few frames at a time.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.sessions import mid_size
from framefusion.assets import REAL_VIDEO
from framefusion.batch import Local, Plan
from framefusion.batch.plan import ModelAnswerer
from framefusion.batch.rows import Row
from framefusion.evaluation.footage import CLIPS

QUESTION = "what is shown?"
FRAMES = 256


def _itself(value: Any) -> Any:
    return value


class OwnSize(ModelAnswerer):
    """Reads frames at their own size."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._fit = lambda count, height, width: None  # type: ignore[assignment]


def videos(rounds: int, only: str, clip: Path, frames: int) -> None:
    """Print how many videos a minute are answered by the models whose name begins so."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clips = [str(shutil.copyfile(clip, Path(folder) / f"{i}.mp4")) for i in range(12)]
        rows = [Row(i, f"{i:012x}", media=(clip,), question=QUESTION) for i, clip in enumerate(clips)]
        middle = Path(folder) / "middle"
        model, processor = mid_size()
        model.save_pretrained(middle)
        processor.save_pretrained(middle)
        for name, path, count in (("bundled", None, 12), ("mid-size Qwen2.5-VL", str(middle), 3)):
            if not name.startswith(only):
                continue
            plan = Plan(model={"model": path, "device": "cpu"}, frames=frames, max_new_tokens=8)
            own, fitted = OwnSize(plan), ModelAnswerer(plan)
            ways = {"one after the other": (own, False), "ahead": (own, True), "ahead, at the size": (fitted, True)}
            taken: dict[str, list[float]] = {way: [] for way in ways}
            answers = []
            for turn in range(rounds + 1):
                for way, (answerer, ahead) in ways.items():
                    make: Any = partial(_itself, answerer)
                    begin = time.perf_counter()
                    found = list(Local(ahead).answers(make, rows[:count], count, lambda model: None, True))
                    answers.append([result["answer"] for _, result in found])
                    if turn:  # the first one is a warm-up
                        taken[way].append(time.perf_counter() - begin)
            assert all(said == answers[0] for said in answers)
            first = taken["one after the other"]
            for way, seconds in taken.items():
                ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
                rate = 60 * count / statistics.median(seconds)
                print(f"{name}, {way}: {rate:.1f} videos a minute, × {ratio:.2f}", flush=True)


def tower(given: int | None) -> None:
    """Print the largest memory of this process before and while a video is encoded."""
    from framefusion.asking.media import read_media
    from framefusion.asking.prompts import model_inputs
    from framefusion.hf.frame_groups import encode_in_groups

    torch.set_num_threads(1)
    model, processor = mid_size()
    video = read_media(REAL_VIDEO, FRAMES)
    inputs = model_inputs(video, QUESTION, model, processor)
    if given is not None:
        encode_in_groups(model, given)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with torch.inference_mode():
        features = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    taken = time.process_time() - begin
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    tokens = sum(map(len, features.pooler_output))
    print(f"{given or 'all'} frames at once: {more:.0f} MiB more for {tokens} tokens, {taken:.1f} CPU s", flush=True)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["videos", "tower"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="videos: of the model whose name begins so")
    parser.add_argument("--clip", choices=CLIPS, help="videos: instead of the bundled one")
    parser.add_argument("--frames", type=int, default=16, help="videos: of each")
    parser.add_argument("--frames-at-once", type=int, help="tower: in this process, 0 for all of them")
    given = parser.parse_args()
    if given.what == "videos":
        clip = Path(REAL_VIDEO) if given.clip is None else CLIPS[given.clip].path()
        videos(given.rounds, given.only, clip, given.frames)
    elif given.frames_at_once is not None:
        tower(given.frames_at_once or None)
    else:
        for frames in (0, 64, 16):
            words = ["-m", "benchmarks.overlap", "tower", "--frames-at-once", str(frames)]
            subprocess.run([sys.executable, *words], check=True)


if __name__ == "__main__":
    main()
