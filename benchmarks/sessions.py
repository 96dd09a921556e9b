"""What a session costs: the first question and the following ones, parts of a video, a stream over hours, memory.

    python -m benchmarks.sessions questions --json docs/data/sessions-questions.json
    python -m benchmarks.sessions stream --json docs/data/sessions-stream.json
    python -m benchmarks.sessions parts --json docs/data/sessions-parts.json
    python -m benchmarks.sessions peak --json docs/data/sessions-peak.json

CPU seconds of one thread, both ways in turns in one process. ``questions`` asks a mid-size Qwen2.5-VL with random
weights (tower 32 × 160, decoder 14 × 768, the proportions of a 7B one) and the bundled checkpoint five questions about
a video. ``stream`` shows the bundled checkpoint two hours of generated frames, one a second. ``parts`` asks VideoNeedle
about videos that were shown in 1, 2, 4 and 8 parts. ``peak`` measures the memory of a process that is shown 64, 512 and
3,600 frames.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framefusion import FrameFusion, session
from framefusion.asking.ask import ask
from framefusion.asking.frames import video_of_frames
from framefusion.asking.loading import load
from framefusion.asking.provenance import versions
from framefusion.evaluation.scoring import exact_match
from framefusion.evaluation.videoneedle import VideoNeedle

QUESTIONS = (
    "What came after the red circle?",
    "Which way does the square move?",
    "What colour is the triangle?",
    "What is shown first?",
    "How many things are there?",
)
HOURS = 2
CHUNK = 16
MEMORY = 2048
SIDE = 96


def mid_size() -> tuple[Any, Any]:
    """A Qwen2.5-VL with the proportions of a 7B one, and the bundled processor."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded = load("bundled-qwen", device="cpu")
    config = loaded.model.config
    text, vision = config.text_config, config.vision_config
    text.update({"hidden_size": 768, "intermediate_size": 4096, "num_hidden_layers": 14, "num_attention_heads": 12})
    text.update({"num_key_value_heads": 2, "layer_types": ["full_attention"] * 14, "max_window_layers": 14})
    text.rope_parameters["mrope_section"] = [8, 12, 12]
    vision.update({"depth": 32, "hidden_size": 160, "intermediate_size": 427, "num_heads": 8, "out_hidden_size": 768})
    vision.update({"fullatt_block_indexes": [7, 15, 23, 31]})
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval(), loaded.processor


def moving(first: int, count: int) -> np.ndarray:
    """Generated frames: a square that moves over a background that changes once a minute."""
    frames = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for index in range(count):
        second = first + index
        frames[index] = (
            np.random.default_rng(second // 60).integers(0, 120, (SIDE // 8, SIDE // 8, 3)).repeat(8, 0).repeat(8, 1)
        )
        x, y = 5 * second % (SIDE - 16), 3 * second % (SIDE - 16)
        frames[index, y : y + 16, x : x + 16] = (250, 40, 40)
    return frames


def cpu(call: Any) -> tuple[float, Any]:
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def questions(rounds: int) -> dict[str, Any]:
    """Five questions about one video, afresh and in a session."""
    return {
        "mid-size Qwen2.5-VL": _asked(*mid_size(), 32, rounds),
        "bundled LLaVA-OneVision": _asked(*_bundled(), 16, rounds),
    }


def _asked(model: Any, processor: Any, frames: int, rounds: int) -> dict[str, Any]:
    video = video_of_frames(moving(0, frames).repeat(3, 1).repeat(3, 2), np.arange(float(frames)))
    common: dict[str, Any] = {"model": model, "processor": processor, "max_new_tokens": 4}
    times: dict[str, list[float]] = {"afresh": [], "shown": [], "first": [], "following": [], "together": []}
    same = 0
    for _ in range(rounds):
        afresh = [cpu(partial(ask, video, question, **common)) for question in QUESTIONS]
        times["afresh"].append(sum(seconds for seconds, _ in afresh))
        with session(model, processor, chunk=frames, max_new_tokens=4) as talk:
            times["shown"].append(cpu(partial(talk.add, video))[0])
            said = [cpu(partial(talk.ask, question)) for question in QUESTIONS]
            times["first"].append(said[0][0])
            times["following"] += [seconds for seconds, _ in said[1:]]
            same = sum(one.text == other.text for (_, one), (_, other) in zip(afresh, said, strict=True))
            times["together"].append(cpu(partial(talk.ask_all, QUESTIONS))[0])
    middle = {key: statistics.median(values) for key, values in times.items()}
    in_session = middle["shown"] + middle["first"] + (len(QUESTIONS) - 1) * middle["following"]
    return {
        "frames": frames,
        "same answers": f"{same} of {len(QUESTIONS)}",
        "CPU seconds": {key: round(value, 3) for key, value in middle.items()},
        "five questions, afresh over session": round(middle["afresh"] / in_session, 2),
        "five questions, afresh over one batch": round(middle["afresh"] / (middle["shown"] + middle["together"]), 2),
    }


def _bundled() -> tuple[Any, Any]:
    loaded = load(device="cpu")
    return loaded.model, loaded.processor


def stream(rounds: int) -> dict[str, Any]:
    """Hours of a stream: time of a part, what is held, and the time of a question, over time."""
    model, processor = _bundled()
    rows = []
    with session(model, processor, memory=MEMORY, chunk=CHUNK, max_new_tokens=4) as talk:
        for first in range(0, HOURS * 3600, CHUNK):
            frames, times = moving(first, CHUNK), np.arange(first, first + CHUNK, dtype=float)
            seconds, _ = cpu(partial(talk.add, frames, timestamps=times))
            rows.append([first + CHUNK, seconds, talk._held.prefix.nbytes, talk._held.prefix.length, None])
            if first % 600 < CHUNK:
                rows[-1][4] = cpu(partial(talk.ask, QUESTIONS[1]))[0]
        summary = talk.summary()
    parts = []
    for begin in range(0, HOURS * 3600, 1200):
        own = [row for row in rows if begin < row[0] <= begin + 1200]
        parts.append(
            {
                "until": f"{(begin + 1200) // 60} min",
                "CPU seconds a part": round(statistics.median(row[1] for row in own), 3),
                "MiB held": round(max(row[2] for row in own) / 2**20, 2),
                "columns counted": max(row[3] for row in own),
                "CPU seconds a question": round(statistics.median(row[4] for row in own if row[4]), 3),
            }
        )
    return {
        "frames": summary.frames,
        "frames a part": CHUNK,
        "memory": MEMORY,
        "held": summary.held,
        "forgotten": summary.forgotten,
        "over time": parts,
    }


def parts(rounds: int) -> dict[str, Any]:
    """Accuracy on VideoNeedle, videos shown in parts."""
    model, processor = _bundled()
    data, frames = VideoNeedle(videos=24, seed=1), 16
    asked = data.questions(frames)
    found: dict[str, Any] = {}
    for settings, label in ((FrameFusion(keep=1.0), "all tokens"), (FrameFusion(cost=0.2), "cost 0.2")):
        for count in (1, 2, 4, 8):
            right = 0
            for video in dict.fromkeys(question.video for question in asked):
                own = [question for question in asked if question.video == video]
                with session(model, processor, settings, chunk=frames // count, max_new_tokens=16) as talk:
                    talk.add(data.video(video, frames, frames))
                    replies = talk.ask_all([question.text for question in own])
                right += sum(exact_match(r.text, q.answer or "") for r, q in zip(replies, own, strict=True))
            found[f"{label}, {count} parts"] = round(100 * right / len(asked), 1)
    return {"questions": len(asked), "right in %": found}


def peak(rounds: int) -> dict[str, Any]:
    """Largest memory of a process of its own, for each number of frames."""
    found = {}
    for frames in (64, 512, 3600):
        command = [sys.executable, "-m", "benchmarks.sessions", "peak-of", "--frames", str(frames)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[frames] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_of(frames: int) -> dict[str, Any]:
    """What :func:`peak` runs in a process of its own."""
    model, processor = _bundled()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with session(model, processor, FrameFusion(cost=0.2), chunk=CHUNK, max_new_tokens=4) as talk:
        for first in range(0, frames, CHUNK):
            talk.add(moving(first, CHUNK), timestamps=np.arange(first, first + CHUNK, dtype=float))
        talk.ask(QUESTIONS[1])
        held = talk.summary()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "MiB above the loaded model": round((after - before) / 1024),
        "MiB held": round(held.nbytes / 2**20, 1),
        "visual tokens": held.visual_tokens,
        "held": held.held,
        "CPU seconds": round(time.process_time() - begin, 1),
    }


MEASURES = {"questions": questions, "stream": stream, "parts": parts, "peak": peak}


def main() -> None:
    """Run one of the measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", choices=[*MEASURES, "peak-of"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.measure == "peak-of":
        print(json.dumps(peak_of(given.frames)))
        return
    found = MEASURES[given.measure](given.rounds)
    found["versions"] = dict(versions())
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if given.json is not None:
        given.json.write_text(text)


if __name__ == "__main__":
    main()
